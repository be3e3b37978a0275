// A program as Python sees it: arguments checked, what steps point to kept alive, the GIL let go.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "binding/arrays.h"
#include "binding/pool.h"
#include "binding/weights.h"
#include "program/program.h"

namespace geminate {

class ProgramRef {
 public:
  ProgramRef(const PoolRef& pool, const std::string& isa, int64_t max_rows,
             const std::vector<int64_t>& widths);

  // One step each, in the plan's order; steps.cpp.
  void embed(int out, const MatrixRef& table, float scale);
  void lookup(int out, const TableRef& table, float scale, int64_t column);
  void concat(int a, int b, int out);
  void norm(int x, int out, std::optional<In<float>> weight, float eps, int groups);
  void linear(int x, int out, const MatrixRef& w, float scale);
  void add(int a, int b, int out, float scale);
  void gelu(int gate, int up, int out, int64_t offset);
  void rope(int x, int groups, int table);
  void kv_store(int keys, int values, int slot, int kv_heads);
  void attention(int q, int out, int slot, int heads, int kv_heads, int head_dim, int64_t window,
                 bool include_self);
  void softcap(int x, float cap);
  void gather(int x);
  void tap(int x, int index);
  void experts(int x, int scores, int out, const MatrixRef& gate_up, const MatrixRef& down, int top_k,
               In<float> scale);
  void centroid_head(int x, int out, int ids, const MatrixRef& centroids, const MatrixRef& table,
                     In<int32_t> order, int top_k);
  void finish(int hidden, int logits, int candidates, int hidden_in, const std::vector<int>& external);

  // run.cpp
  void run(In<int32_t> ids, In<int32_t> positions, In<int32_t> sequences, In<int32_t> head_rows,
           In<uint64_t> caches, const std::vector<In<float>>& cosines, const std::vector<In<float>>& sines,
           Out<float> hidden, Out<float> logits, std::vector<Out<float>> taps, bool largest);
  int64_t draft(int32_t token, In<float> hidden, int32_t position, int32_t rope_position, In<uint64_t> caches,
                const std::vector<In<float>>& cosines, const std::vector<In<float>>& sines, int64_t k,
                double temperature, int64_t top_k, double top_p, double min_p, uint64_t seed, uint64_t choice,
                std::optional<In<float>> calibration, std::optional<In<float>> ahead,
                std::optional<In<float>> need, Out<int32_t> ids, Out<float> probabilities, Out<float> logits,
                Out<float> next, Out<int32_t> candidates);
  int64_t expert_reads() const { return program_->expert_reads(); }

 private:
  // Width of a buffer that `call` was given as argument `name`.
  int64_t width(const char* call, const char* name, int buffer) const;
  int64_t width(int buffer) const { return program_->buffer(buffer).width; }
  template <class... Name>
  void require_token(int32_t token, const Name&... name) const {
    require(token >= 0 && token < program_->min_vocab(), name..., " is ", token, ", but the vocabulary has ",
            program_->min_vocab());
  }
  void require_rows(const In<int32_t>& ids, const In<int32_t>& positions, const In<int32_t>& sequences,
                    const In<int32_t>& head_rows, size_t caches) const;
  Pass make_pass(const char* call, const In<uint64_t>& caches, const std::vector<In<float>>& cosines,
                 const std::vector<In<float>>& sines, int64_t last) const;

  std::unique_ptr<Program> program_;
  std::mutex busy_;                  // buffers and scratch serve one pass at a time; taken without the GIL
  std::vector<MatrixRef> matrices_;  // steps point into these, whatever Python lets go
  std::vector<TableRef> tables_;
  std::vector<In<float>> vectors_;
  std::optional<In<int32_t>> order_;
  std::vector<int64_t> dims_;  // least half head of each rope table's users
  int count_ = 0, slots_ = 0, taps_ = 0;
  int hidden_ = -1, logits_ = -1, candidates_ = -1, hidden_in_ = -1;
};

}  // namespace geminate
