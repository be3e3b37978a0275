#include "sampling/sampler.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <functional>

#include "sampling/noise.h"

namespace geminate {
namespace {

constexpr int64_t kSmall = 1 << 20;      // work of a call that is not worth waking a thread: some 0.2 ms
constexpr int64_t kLeastStripes = 8;     // of a part of a row
constexpr int64_t kPiecesPerThread = 4;  // so that a thread which lost its core holds up little

// Logits after bias and penalties, of the tokens that these change; see geminate.decoding.sampling.
void changed_logits(const float* x, const Part& part, int64_t drafted, std::vector<Row::Changed>& out) {
  const SequenceRule& rule = *part.rule;
  const auto bias_begin = rule.bias_ids.begin(), bias_end = rule.bias_ids.end();
  std::vector<char> penalised(rule.bias_ids.size(), 0);
  const auto add = [&](int64_t id, int64_t count) {
    double at = x[id];
    const auto found = std::lower_bound(bias_begin, bias_end, id);
    if (found != bias_end && *found == id) {
      const size_t which = static_cast<size_t>(found - bias_begin);
      at += rule.bias_amounts[which];
      penalised[which] = 1;
    } else if (rule.repetition == 1.0 && count == 0) {
      return;  // nothing is subtracted from it
    }
    if (rule.repetition != 1.0) at = at < 0.0 ? at * rule.repetition : at / rule.repetition;
    at = at - rule.frequency * static_cast<double>(count) - rule.presence * (count > 0 ? 1.0 : 0.0);
    out.push_back({at, static_cast<int32_t>(id)});
  };
  const auto drafts_end = part.drafts.begin() + drafted;
  if (rule.counts()) {
    std::vector<char> known(static_cast<size_t>(drafted), 0);
    for (int64_t i = 0; i < part.counted; ++i) {
      int64_t count = part.output[i];
      for (int64_t d = 0; d < drafted; ++d) {
        const bool same = part.drafts[static_cast<size_t>(d)] == part.ids[i];
        count += same;
        known[static_cast<size_t>(d)] |= same;
      }
      add(part.ids[i], count);
    }
    for (auto d = part.drafts.begin(); d != drafts_end; ++d) {
      if (known[static_cast<size_t>(d - part.drafts.begin())] || std::find(part.drafts.begin(), d, *d) != d)
        continue;
      add(*d, std::count(part.drafts.begin(), drafts_end, *d));
    }
  }
  for (size_t i = 0; i < rule.bias_ids.size(); ++i) {
    if (!penalised[i]) {
      out.push_back({x[rule.bias_ids[i]] + rule.bias_amounts[i], static_cast<int32_t>(rule.bias_ids[i])});
    }
  }
}

// What a logit of a row costs, in units of its first scan.
int64_t cost_of(const DrawRule& rule, int64_t vocab) {
  if (rule.temperature == 0.0 || (rule.top_k > 0 && rule.top_k < vocab)) return 1;
  return rule.top_p < 1.0 ? 10 : 4;
}
constexpr int64_t kLogprobsCost = 8;

}  // namespace

// Rows of one size, cut into pieces that threads take.
struct Sampler::Split {
  int64_t rows, stripes, pieces;

  Split(int64_t of_rows, int64_t size, int threads) : rows(of_rows), stripes((size + kStripe - 1) / kStripe) {
    const int64_t wanted = (kPiecesPerThread * threads + rows - 1) / rows;
    pieces = std::clamp<int64_t>(std::min(wanted, stripes / kLeastStripes), 1, stripes);
  }
  int64_t items() const { return rows * pieces; }
  size_t row(int64_t item) const { return static_cast<size_t>(item / pieces); }
  int64_t begin(int64_t item) const { return item % pieces * stripes / pieces; }
  int64_t end(int64_t item) const { return (item % pieces + 1) * stripes / pieces; }
};

// Pieces of work that need those of the phase before. Threads wait for pieces, not for each other.
struct Sampler::Phase {
  int64_t items;
  std::function<void(int64_t)> work;
};

void Sampler::run(std::vector<Phase>& phases, int threads) {
  struct State {
    std::atomic<int64_t> next{0};
    Pieces finished;
  };
  struct Job {
    const std::vector<Phase>& phases;
    std::vector<State> states;
    std::atomic<bool> failed{false};
    std::exception_ptr error{};
  } job{phases, std::vector<State>(phases.size())};
  const auto walk = [](void* context, int) {
    Job& mine = *static_cast<Job*>(context);
    for (size_t p = 0; p < mine.phases.size(); ++p) {
      const Phase& phase = mine.phases[p];
      State& state = mine.states[p];
      for (int64_t i; (i = state.next.fetch_add(1, std::memory_order_relaxed)) < phase.items;) {
        try {
          if (!mine.failed.load(std::memory_order_acquire)) phase.work(i);
        } catch (...) {  // no memory
          if (!mine.failed.exchange(true)) mine.error = std::current_exception();
        }
        state.finished.finish(1, static_cast<uint32_t>(phase.items));
      }
      state.finished.wait(static_cast<uint32_t>(phase.items));
    }
  };
  pool_->run(threads, walk, &job);
  if (job.error) std::rethrow_exception(job.error);
}

void Sampler::prepare(Row& row, const Part& part, int64_t at, const float* logits, int64_t vocab) const {
  const SequenceRule& rule = *part.rule;
  const float* x = logits + (part.first + at) * vocab;
  const uint64_t position = static_cast<uint64_t>(part.position + at);
  row.begin(kernels_, x, vocab, rule.draw, stream_key(rule.seed, rule.choice, position));
  if (part.allowed != nullptr) row.restrict_to(part.allowed);
  if (!rule.bias_ids.empty() && rule.bias_ids.back() >= vocab) {
    row.refuse();
  } else if (rule.counts() || !rule.bias_ids.empty()) {
    std::vector<Row::Changed> changes;
    changed_logits(x, part, at, changes);
    row.change(changes);
  }
}

std::vector<std::vector<int64_t>> Sampler::draw(const float* logits, int64_t vocab,
                                                const std::vector<Part>& parts) {
  const std::lock_guard<std::mutex> lock(busy_);
  std::vector<std::pair<const Part*, int64_t>> all;
  bool masses = false;
  int64_t cost = 0;
  for (const Part& part : parts) {
    masses |= part.rule->draw.top_p < 1.0;
    cost += static_cast<int64_t>(part.drafts.size() + 1) * vocab * cost_of(part.rule->draw, vocab);
    for (size_t at = 0; at <= part.drafts.size(); ++at) all.emplace_back(&part, static_cast<int64_t>(at));
  }
  const int64_t rows = static_cast<int64_t>(all.size());
  if (rows_.size() < all.size()) rows_.resize(all.size());
  const int threads = pool_->size();
  if (cost <= kSmall || threads == 1) return draw_in_turn(logits, vocab, parts);

  const Split split(rows, vocab, threads);
  const size_t items = static_cast<size_t>(split.items()), pieces = static_cast<size_t>(split.pieces);
  std::vector<char> finite(items);
  std::vector<Winner> best(items);
  std::vector<Mass> mass(masses ? items : 0);
  std::vector<uint64_t> buckets(masses ? items * kBuckets : 0);
  // Phases over the pieces of rows that are at a stage, and over these rows.
  const auto on_pieces = [&](Row::Stage stage, auto work) -> Phase {
    return {split.items(), [this, &split, stage, work](int64_t i) {
              const Row& row = rows_[split.row(i)];
              if (row.stage() == stage) work(row, static_cast<size_t>(i), split.begin(i), split.end(i));
            }};
  };
  const auto on_rows = [&](Row::Stage stage, auto work) -> Phase {
    return {rows, [this, pieces, stage, work](int64_t r) {
              Row& row = rows_[static_cast<size_t>(r)];
              if (row.stage() == stage) work(row, static_cast<size_t>(r) * pieces);
            }};
  };
  const Phase seek = on_pieces(Row::Stage::noise, [&](const Row& row, size_t i, int64_t begin, int64_t end) {
    best[i] = row.noise(begin, end);
  });
  const Phase propose = on_rows(Row::Stage::noise, [&](Row& row, size_t first) {
    Winner top = best[first];  // pieces ascend, so the first of equals has the lowest index
    for (size_t p = 1; p < pieces; ++p) {
      if (best[first + p].score > top.score) top = best[first + p];
    }
    row.propose(top);
  });
  std::vector<Phase> phases{
      {rows,
       [&](int64_t r) {
         const auto [part, at] = all[static_cast<size_t>(r)];
         prepare(rows_[static_cast<size_t>(r)], *part, at, logits, vocab);
       }},
      {split.items(),
       [&](int64_t i) {
         finite[static_cast<size_t>(i)] = rows_[split.row(i)].scan(split.begin(i), split.end(i));
       }},
      {rows,
       [&](int64_t r) {
         const auto first = finite.begin() + r * split.pieces;
         const bool ok = std::find(first, first + split.pieces, 0) == first + split.pieces;
         rows_[static_cast<size_t>(r)].settle(ok);
       }},
      seek,
      propose,
  };
  if (masses) {
    phases.push_back(on_pieces(Row::Stage::mass, [&](const Row& row, size_t i, int64_t begin, int64_t end) {
      mass[i] = row.weigh(begin, end);
    }));
    phases.push_back(on_rows(Row::Stage::mass, [&](Row& row, size_t first) {
      Mass sum;
      for (size_t p = 0; p < pieces; ++p) {
        sum.total += mass[first + p].total, sum.before += mass[first + p].before;
      }
      row.check(sum);
    }));
    phases.push_back(
        on_pieces(Row::Stage::buckets, [&](const Row& row, size_t i, int64_t begin, int64_t end) {
          row.weigh(begin, end, buckets.data() + i * kBuckets);
        }));
    phases.push_back(on_rows(Row::Stage::buckets, [&](Row& row, size_t first) {
      uint64_t* sum = buckets.data() + first * kBuckets;
      for (size_t i = kBuckets; i < pieces * kBuckets; ++i) sum[i % kBuckets] += sum[i];
      row.cut(sum);
    }));
    phases.push_back(seek);
    phases.push_back(propose);
  }
  run(phases, threads);

  std::vector<std::vector<int64_t>> drawn;
  size_t r = 0;
  for (const Part& part : parts) {
    std::vector<int64_t>& tokens = drawn.emplace_back();
    for (size_t at = 0; at <= part.drafts.size(); ++at) tokens.push_back(rows_[r++].drawn());
  }
  return drawn;
}

std::vector<std::vector<int64_t>> Sampler::draw_in_turn(const float* logits, int64_t vocab,
                                                        const std::vector<Part>& parts) {
  std::vector<std::vector<int64_t>> drawn;
  std::vector<Phase> phases{{1, [&](int64_t) {
                               for (const Part& part : parts) {
                                 std::vector<int64_t>& tokens = drawn.emplace_back();
                                 for (size_t at = 0; at <= part.drafts.size(); ++at) {
                                   prepare(rows_[0], part, static_cast<int64_t>(at), logits, vocab);
                                   tokens.push_back(rows_[0].draw());
                                   if (at < part.drafts.size() && tokens.back() != part.drafts[at]) break;
                                 }
                               }
                             }}};
  run(phases, 1);
  return drawn;
}

bool Sampler::logprobs(const float* logits, int64_t rows, int64_t vocab, const int64_t* tokens, int64_t top,
                       double* chosen, int32_t* ids, double* values) {
  const std::lock_guard<std::mutex> lock(busy_);
  if (rows_.size() < static_cast<size_t>(rows)) rows_.resize(static_cast<size_t>(rows));
  const int threads = rows * vocab * kLogprobsCost <= kSmall ? 1 : pool_->size();
  const Split split(rows, vocab, threads);
  const size_t items = static_cast<size_t>(split.items());
  DrawRule plain;
  plain.temperature = 1.0;
  for (int64_t r = 0; r < rows; ++r) {
    rows_[static_cast<size_t>(r)].begin(kernels_, logits + r * vocab, vocab, plain, 0);
  }
  std::vector<char> finite(items);
  std::vector<uint64_t> mass(items);
  std::vector<Phase> phases{
      {split.items(),
       [&](int64_t i) {
         finite[static_cast<size_t>(i)] = rows_[split.row(i)].scan(split.begin(i), split.end(i));
       }},
      {rows, [&](int64_t r) { rows_[static_cast<size_t>(r)].settle(true); }},
      {split.items(),
       [&](int64_t i) {
         mass[static_cast<size_t>(i)] = rows_[split.row(i)].weigh(split.begin(i), split.end(i)).total;
       }},
      {rows,
       [&](int64_t r) {
         Row& row = rows_[static_cast<size_t>(r)];
         uint64_t sum = 0;
         for (int64_t p = 0; p < split.pieces; ++p) sum += mass[static_cast<size_t>(r * split.pieces + p)];
         const double share = static_cast<double>(static_cast<int64_t>(sum)) * 0x1p-44;
         const double total = row.peak() + elementary::log(share);
         chosen[r] = row.logits()[tokens[r]] - total;
         if (top == 0) return;
         row.top(top, ids + r * top, values + r * top);
         for (int64_t i = r * top; i < (r + 1) * top; ++i) values[i] -= total;
       }},
  };
  run(phases, threads);
  return std::find(finite.begin(), finite.end(), 0) == finite.end();
}

}  // namespace geminate
