// Runs a compiled plan: stage by stage, piece by piece.
#include <algorithm>
#include <limits>
#include <new>

#include "program/program.h"

namespace geminate {
namespace {

constexpr int64_t kSmallPlan =
    1 << 20;  // bytes of weights and cache below which one thread is faster than two

// Runs of `count` rows; row i of them is row all[i] of the pass, or i where `all` is null.
void make_runs(const Pass& pass, const int32_t* all, int64_t count, std::vector<Run>& runs) {
  runs.clear();
  for (int64_t r = 0; r < count; ++r) {
    const int64_t at = all == nullptr ? r : all[r];
    if (!runs.empty() && runs.back().count < kAttentionRows) {
      const int64_t expected = pass.positions[runs.back().all] + runs.back().count;
      if (pass.sequences[at] == pass.sequences[runs.back().all] && pass.positions[at] == expected) {
        ++runs.back().count;
        continue;
      }
    }
    runs.push_back({r, 1, at});
  }
}

}  // namespace

int Program::threads_for(const Pass& pass) const {
  const int64_t last = *std::max_element(pass.positions, pass.positions + pass.rows);
  const int64_t bytes = weight_bytes_ + last * position_bytes_;
  return bytes * std::min<int64_t>(pass.rows, 8) < kSmallPlan ? 1 : pool_->size();
}

void Program::run(const Pass& pass) {
  prepare(pass, threads_for(pass));
  struct Job {
    Program* program;
    const Pass* pass;
  } job{this, &pass};
  pool_->run(
      threads_,
      [](void* context, int thread) {
        const Job& j = *static_cast<Job*>(context);
        j.program->walk(*j.pass, thread);
      },
      &job);
  if (starved_.load(std::memory_order_relaxed)) throw std::bad_alloc();
}

void Program::prepare(const Pass& pass, int threads) {
  threads_ = threads;
  starved_.store(false, std::memory_order_relaxed);
  expert_reads_ = 0;
  largest_.assign(pass.largest ? static_cast<size_t>(pass.heads) : 0,
                  -std::numeric_limits<float>::infinity());
  make_runs(pass, nullptr, pass.rows, runs_);
  make_runs(pass, pass.head_rows, pass.heads, head_runs_);
  positions_ = 0;
  for (int64_t r = 0; r < pass.rows; ++r) positions_ = std::max<int64_t>(positions_, pass.positions[r] + 1);
  reserve_records(runs_);
  reserve_records(head_runs_);
  ends_.resize(stages_.size());
  for (size_t i = 0; i < stages_.size(); ++i) {
    done_[i].done.store(0, std::memory_order_relaxed);
    ends_[i].clear();
    int64_t total = 0;
    for (const Work& work : stages_[i]) ends_[i].push_back(total += count_pieces(work, pass));
    for (int t = 0; t < threads; ++t) share(i, t)->store(share_begin(i, t), std::memory_order_relaxed);
  }
}

std::atomic<int64_t>* Program::share(size_t stage, int thread) {
  return &shares_[stage * static_cast<size_t>(pool_->size()) + static_cast<size_t>(thread)].next;
}

int64_t Program::share_begin(size_t stage, int thread) const {
  return ends_[stage].back() * thread / threads_;
}

// A thread first takes its own share of a stage in order, one sequential stream of weights, then what is left
// of the others': threads need not run equally fast.
void Program::walk(const Pass& pass, int thread) {
  for (size_t i = 0; i < stages_.size(); ++i) {
    const std::vector<int64_t>& ends = ends_[i];
    uint32_t finished = 0;
    for (int t = 0; t < threads_; ++t) {
      const int owner = (thread + t) % threads_;
      const int64_t end = share_begin(i, owner + 1);
      std::atomic<int64_t>& next = *share(i, owner);
      while (next.load(std::memory_order_relaxed) < end) {
        const int64_t p = next.fetch_add(1, std::memory_order_relaxed);
        if (p >= end) break;
        size_t w = 0;
        while (p >= ends[w]) ++w;
        try {
          run_piece(stages_[i][w], p - (w == 0 ? 0 : ends[w - 1]), pass);
        } catch (const std::bad_alloc&) {  // its scratch; other threads wait for the piece, so the pass fails
                                           // at its end
          starved_.store(true, std::memory_order_relaxed);
        }
        ++finished;
      }
    }
    if (threads_ == 1) continue;
    const uint32_t total = static_cast<uint32_t>(ends.back());
    if (finished > 0) done_[i].finish(finished, total);
    done_[i].wait(total);
  }
}

int64_t Program::count_pieces(const Work& work, const Pass& pass) const {
  const int64_t rows = work.head_rows ? pass.heads : pass.rows;
  const auto count = [&](const auto& s) -> int64_t {
    if constexpr (kByRows<decltype(s)>) {
      return rows;
    } else if constexpr (std::is_same_v<std::remove_cvref_t<decltype(s)>, AttentionStep>) {
      return pieces(s, runs(work.head_rows));
    } else {
      return pieces(s, rows);
    }
  };
  return std::visit(count, steps_[work.steps[0]].op);
}

void Program::run_piece(const Work& work, int64_t index, const Pass& pass) {
  const int64_t rows = work.head_rows ? pass.heads : pass.rows;
  if (work.split == Split::rows) {
    const RowAt at{pass, rows, work.head_rows, index, work.head_rows ? pass.head_rows[index] : index};
    const auto row_step = [&](const auto& s) {
      if constexpr (kByRows<decltype(s)>) run_row(s, at);
    };
    for (const size_t i : work.steps) std::visit(row_step, steps_[i].op);
    return;
  }
  const PieceAt at{pass, rows, work.head_rows, index};
  const auto part_step = [&](const auto& s) {
    if constexpr (!kByRows<decltype(s)>) run_part(s, at);
  };
  std::visit(part_step, steps_[work.steps[0]].op);
}

QuantGroup* Program::panel_row(int64_t r, int64_t rows, int64_t groups, int64_t* stride) const {
  const int64_t panel = r / kPanelRows;
  *stride = std::min<int64_t>(kPanelRows, rows - panel * kPanelRows);
  return static_cast<QuantGroup*>(panels_) + panel * kPanelRows * groups + r % kPanelRows;
}

CodeLine* Program::code_row(int64_t r, int64_t rows, int64_t groups, int64_t halves, int64_t* stride) const {
  const int64_t panel = r / kPanelRows;
  *stride = std::min<int64_t>(kPanelRows, rows - panel * kPanelRows) * halves;
  return static_cast<CodeLine*>(panels_) + panel * kPanelRows * (groups + 1) * halves + r % kPanelRows;
}

Activations Program::activations(int x, const Matrix& w, int64_t r, int64_t rows) const {
  int64_t stride;
  switch (info(w.format).activations) {
    case Seen::groups:
      return {.panel = panel_row(r, rows, w.groups, &stride)};
    case Seen::rows:
      return {.codes = code_row(r, rows, w.groups, w.halves(), &stride)};
    case Seen::floats:
      break;
  }
  return {.x = buffer(x).row(r), .x_stride = buffer(x).stride};
}

}  // namespace geminate
