// Checks the arguments of each step and appends it.
#include <algorithm>

#include "binding/program.h"

namespace geminate {
namespace {

// "linear: x is 64 wide, but w takes 72".
void require_width(const char* call, const char* name, int64_t given, const char* other, int64_t wanted) {
  require(given == wanted, call, ": ", name, " is ", given, " wide, but ", other, " ", wanted);
}

// "rope: groups must be positive, but is 0".
void require_positive(const char* call, const char* name, int64_t given) {
  require(given > 0, call, ": ", name, " must be positive, but is ", given);
}

void require_index(const char* call, const char* name, int64_t given) {
  require(given >= 0, call, ": ", name, " must be 0 or more, but is ", given);
}

// `given` wide in `parts` equal parts.
void require_parts(const char* call, const char* name, int64_t given, const char* of, int64_t parts) {
  require_positive(call, of, parts);
  require(given % parts == 0, call, ": ", name, " is ", given, " wide, which does not split into ", parts,
          " ", of);
}

// Every id below `n` once: kernels read rows at these, and a draft feeds them back.
void require_permutation(const char* call, const char* name, const In<int32_t>& ids, int64_t n) {
  std::vector<bool> seen(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    const int32_t id = ids.data()[i];
    require(id >= 0 && id < n, call, ": ", name, "[", i, "] is ", id, ", but the ids are 0 to ", n - 1);
    require(!seen[static_cast<size_t>(id)], call, ": ", name, "[", i, "] is ", id, ", which came before");
    seen[static_cast<size_t>(id)] = true;
  }
}

}  // namespace

ProgramRef::ProgramRef(const PoolRef& pool, const std::string& isa, int64_t max_rows,
                       const std::vector<int64_t>& widths) {
  const Kernels& kernels = kernels_named("Program", isa);
  require_positive("Program", "max_rows", max_rows);
  program_ = std::make_unique<Program>(pool.pool, &kernels, max_rows, widths);
  count_ = static_cast<int>(widths.size());
}

int64_t ProgramRef::width(const char* call, const char* name, int buffer) const {
  require(buffer >= 0 && buffer < count_, call, ": ", name, " is buffer ", buffer,
          ", but the program has buffers 0 to ", count_ - 1);
  return width(buffer);
}

void ProgramRef::embed(int out, const MatrixRef& table, float scale) {
  require_width("embed", "out", width("embed", "out", out), "table has", table.m.k);
  matrices_.push_back(table);
  program_->add(EmbedStep{.out = out, .table = table.m, .scale = scale});
}

void ProgramRef::lookup(int out, const TableRef& table, float scale, int64_t column) {
  const int64_t columns = width("lookup", "out", out);
  require(column >= 0 && column + columns <= table.t.width, "lookup: column is ", column, ", but table is ",
          table.t.width, " wide and out takes ", columns, " of it");
  tables_.push_back(table);
  program_->add(LookupStep{.out = out, .table = table.t, .scale = scale, .column = column});
}

void ProgramRef::concat(int a, int b, int out) {
  const int64_t both = width("concat", "a", a) + width("concat", "b", b);
  require_width("concat", "out", width("concat", "out", out), "a and b have", both);
  program_->add(ConcatStep{.a = a, .b = b, .out = out});
}

void ProgramRef::norm(int x, int out, std::optional<In<float>> weight, float eps, int groups) {
  const int64_t columns = width("norm", "x", x);
  require_width("norm", "out", width("norm", "out", out), "x has", columns);
  require_parts("norm", "x", columns, "groups", groups);
  const float* values = nullptr;
  if (weight) {
    require_size(*weight, columns / groups, "norm", "weight", groups, " groups of x");
    vectors_.push_back(*weight);
    values = weight->data();
  }
  program_->add(NormStep{.x = x, .out = out, .weight = values, .eps = eps, .groups = groups});
}

void ProgramRef::linear(int x, int out, const MatrixRef& w, float scale) {
  require_width("linear", "x", width("linear", "x", x), "w takes", w.m.k);
  require_width("linear", "out", width("linear", "out", out), "w makes", w.m.n);
  matrices_.push_back(w);
  program_->add(LinearStep{.x = x, .out = out, .w = w.m, .scale = scale});
}

void ProgramRef::add(int a, int b, int out, float scale) {
  const int64_t columns = width("add", "a", a);
  require_width("add", "b", width("add", "b", b), "a has", columns);
  require_width("add", "out", width("add", "out", out), "a has", columns);
  program_->add(AddStep{.a = a, .b = b, .out = out, .scale = scale});
}

void ProgramRef::gelu(int gate, int up, int out, int64_t offset) {
  const int64_t columns = width("gelu", "gate", gate), up_columns = width("gelu", "up", up);
  require_width("gelu", "out", width("gelu", "out", out), "gate has", columns);
  require(offset >= 0 && offset + columns <= up_columns, "gelu: offset is ", offset, ", but up is ",
          up_columns, " wide and gate takes ", columns, " of it");
  program_->add(GeluStep{.gate = gate, .up = up, .out = out, .offset = offset});
}

void ProgramRef::rope(int x, int groups, int table) {
  const int64_t columns = width("rope", "x", x);
  require_parts("rope", "x", columns, "groups", groups);
  require(columns / groups % 2 == 0, "rope: a group of x is ", columns / groups,
          " wide, but rotation takes pairs");
  require_index("rope", "table", table);
  dims_.resize(std::max(dims_.size(), static_cast<size_t>(table) + 1), INT64_MAX);
  int64_t& dim = dims_[static_cast<size_t>(table)];
  dim = std::min(dim, columns / groups / 2);
  program_->add(RopeStep{.x = x, .groups = groups, .table = table});
}

void ProgramRef::kv_store(int keys, int values, int slot, int kv_heads) {
  const int64_t columns = width("kv_store", "keys", keys);
  require_width("kv_store", "values", width("kv_store", "values", values), "keys have", columns);
  require_parts("kv_store", "keys", columns, "kv_heads", kv_heads);
  require_index("kv_store", "slot", slot);
  slots_ = std::max(slots_, slot + 1);
  const int head_dim = static_cast<int>(columns / kv_heads);
  require(head_dim <= kMaxHeadDim, "kv_store: heads are ", head_dim, " wide, but must be 1 to ", kMaxHeadDim);
  program_->add(
      KvStoreStep{.keys = keys, .values = values, .slot = slot, .kv_heads = kv_heads, .head_dim = head_dim});
}

void ProgramRef::attention(int q, int out, int slot, int heads, int kv_heads, int head_dim, int64_t window,
                           bool include_self) {
  require_positive("attention", "heads", heads);
  require_positive("attention", "kv_heads", kv_heads);
  require(heads % kv_heads == 0, "attention: heads is ", heads, ", which is no multiple of the ", kv_heads,
          " kv_heads");
  require_index("attention", "slot", slot);
  require_index("attention", "window", window);
  require(head_dim > 0 && head_dim <= kMaxHeadDim, "attention: head_dim is ", head_dim, ", but must be 1 to ",
          kMaxHeadDim);
  const int64_t columns = static_cast<int64_t>(heads) * head_dim;
  require_width("attention", "q", width("attention", "q", q), "its heads take", columns);
  require_width("attention", "out", width("attention", "out", out), "q has", columns);
  slots_ = std::max(slots_, slot + 1);
  program_->add(AttentionStep{.q = q,
                              .out = out,
                              .slot = slot,
                              .heads = heads,
                              .kv_heads = kv_heads,
                              .head_dim = head_dim,
                              .window = window,
                              .include_self = include_self});
}

void ProgramRef::softcap(int x, float cap) {
  width("softcap", "x", x);
  program_->add(SoftcapStep{.x = x, .cap = cap});
}

void ProgramRef::gather(int x) {
  width("gather", "x", x);
  program_->add(GatherStep{.x = x});
}

void ProgramRef::tap(int x, int index) {
  width("tap", "x", x);
  require_index("tap", "index", index);
  taps_ = std::max(taps_, index + 1);
  program_->add(TapStep{.x = x, .index = index});
}

void ProgramRef::experts(int x, int scores, int out, const MatrixRef& gate_up, const MatrixRef& down,
                         int top_k, In<float> scale) {
  const char* call = "experts";
  const int64_t count = gate_up.m.stack;
  require(down.m.stack == count, "experts: down has ", down.m.stack, " experts, but gate_up has ", count);
  const int64_t score_columns = width(call, "scores", scores);
  require(score_columns == count, "experts: scores is ", score_columns, " wide, but gate_up has ", count,
          " experts");
  require_size(scale, count, call, "scale", count, " experts");
  require(top_k > 0 && top_k <= count, "experts: top_k is ", top_k, ", but must be 1 to ", count);
  require_width(call, "x", width(call, "x", x), "gate_up takes", gate_up.m.k);
  require_width(call, "gate_up", gate_up.m.n, "down takes half of", 2 * down.m.k);
  require_width(call, "out", width(call, "out", out), "down makes", down.m.n);
  for (const MatrixRef* w : {&gate_up, &down}) {
    require(!info(w->m.format).row_scales(), "experts: ", w == &down ? "down" : "gate_up", " is ",
            info(w->m.format).name, ", but experts have no static activations");
  }
  vectors_.push_back(scale);
  matrices_.insert(matrices_.end(), {gate_up, down});
  program_->add_experts(x, scores, out, gate_up.m, down.m, top_k, scale.data());
}

void ProgramRef::centroid_head(int x, int out, int ids, const MatrixRef& centroids, const MatrixRef& table,
                               In<int32_t> order, int top_k) {
  const char* call = "centroid_head";
  const int64_t clusters = centroids.m.n, size = table.m.n;
  require(program_->max_rows() == 1, "centroid_head: max_rows is ", program_->max_rows(),
          ", but the head takes one row at a time");
  require(table.m.stack == clusters, "centroid_head: table has ", table.m.stack,
          " clusters, but centroids have ", clusters);
  require_size(order, clusters * size, call, "order", clusters, " clusters of ", size);
  require_permutation(call, "order", order, clusters * size);
  require(top_k > 0 && top_k <= clusters, "centroid_head: top_k is ", top_k, ", but must be 1 to ", clusters);
  require_width(call, "out", width(call, "out", out), "top_k clusters have", top_k * size);
  require_width(call, "ids", width(call, "ids", ids), "top_k clusters have", top_k * size);
  require_width(call, "x", width(call, "x", x), "centroids take", centroids.m.k);
  require_width(call, "x", width(call, "x", x), "table takes", table.m.k);
  order_ = order;
  matrices_.insert(matrices_.end(), {centroids, table});
  program_->add_centroid_head(x, out, ids, centroids.m, table.m, order.data(), size, top_k);
}

void ProgramRef::finish(int hidden, int logits, int candidates, int hidden_in,
                        const std::vector<int>& external) {
  width("finish", "hidden", hidden);
  width("finish", "logits", logits);
  if (candidates != -1) {
    require_width("finish", "candidates", width("finish", "candidates", candidates), "logits has",
                  width(logits));
  }
  if (hidden_in != -1) {
    require_width("finish", "hidden_in", width("finish", "hidden_in", hidden_in), "hidden has",
                  width(hidden));
  }
  require(program_->has_head_rows(hidden) && program_->has_head_rows(logits),
          "finish: hidden and logits have a row for each wanted row, but are written before the gather");
  hidden_ = hidden;
  logits_ = logits;
  candidates_ = candidates;
  hidden_in_ = hidden_in;
  program_->finish(hidden, logits, candidates, hidden_in, external);
}

}  // namespace geminate
