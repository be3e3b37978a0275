// The binding: argument checks, GIL release, nothing else.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <stdexcept>

#include "isa/cpu.h"
#include "program/probe.h"
#include "program/program.h"

namespace nb = nanobind;
using namespace geminate;

namespace {

template <class T>
using In = nb::ndarray<const T, nb::c_contig, nb::device::cpu>;
template <class T>
using Out = nb::ndarray<T, nb::c_contig, nb::device::cpu>;

void require(bool ok, const char* what) {
  if (!ok) throw std::invalid_argument(what);
}

Format format_of(const std::string& name) {
  if (name == "bf16") return Format::bf16;
  if (name == "int8") return Format::int8;
  require(name == "int4", "unknown weight format");
  return Format::int4;
}

// Weights and the arrays they stand in, kept alive.
struct MatrixRef {
  Matrix m{};
  In<uint8_t> data;
  std::optional<In<uint16_t>> scales;

  MatrixRef(const std::string& format, int64_t n, int64_t k, int64_t stack, In<uint8_t> d,
            std::optional<In<uint16_t>> s)
      : data(std::move(d)), scales(std::move(s)) {
    require(n > 0 && k > 0 && stack > 0, "matrix sizes must be positive");
    m = {format_of(format), n, k, (n + 15) / 16, (k + 31) / 32, stack, data.data(), nullptr};
    const int64_t cells = stack * m.tiles * m.groups;
    const int64_t per = m.format == Format::int4 ? 256 : m.format == Format::int8 ? 512 : 1024;
    require(static_cast<int64_t>(data.size()) == cells * per, "matrix data has the wrong size");
    if (m.format != Format::bf16) {
      require(scales && static_cast<int64_t>(scales->size()) == cells * 16, "scales have the wrong size");
      m.scales = scales->data();
    }
  }
};

struct TableRef {
  RowTable t{};
  In<uint8_t> data;
  std::optional<In<uint16_t>> scales;

  TableRef(const std::string& format, int64_t rows, int64_t width, In<uint8_t> d,
           std::optional<In<uint16_t>> s)
      : data(std::move(d)), scales(std::move(s)) {
    const Format f = format_of(format);
    require(f != Format::int4 && rows > 0 && width > 0, "bad row table");
    const int64_t stride = f == Format::bf16 ? width : (width + 31) / 32 * 32;
    require(static_cast<int64_t>(data.size()) == rows * stride * (f == Format::bf16 ? 2 : 1),
            "row table has the wrong size");
    t = {f, rows, width, stride, data.data(), nullptr};
    if (f == Format::int8) {
      require(scales && static_cast<int64_t>(scales->size()) == rows * stride / 32,
              "scales have the wrong size");
      t.scales = scales->data();
    }
  }
};

struct Pool {
  std::shared_ptr<ThreadPool> pool;
  explicit Pool(int threads) : pool(std::make_shared<ThreadPool>(threads)) {}

  double read_seconds(const std::string& isa, In<uint8_t> data) const {
    const Kernels* kernels = find_kernels(isa);
    require(kernels != nullptr, "this machine has no such instruction set");
    const nb::gil_scoped_release release;
    return geminate::read_seconds(*pool, *kernels, data.data(), static_cast<int64_t>(data.size()));
  }
  double multiply_rate(const std::string& isa, int64_t rounds) const {
    const Kernels* kernels = find_kernels(isa);
    require(kernels != nullptr && rounds > 0, "this machine has no such instruction set");
    const nb::gil_scoped_release release;
    return geminate::multiply_rate(*pool, *kernels, rounds);
  }
};

class PyProgram {
 public:
  PyProgram(const Pool& pool, const std::string& isa, int64_t max_rows, const std::vector<int64_t>& widths)
      : slots_(0) {
    const Kernels* kernels = find_kernels(isa);
    require(kernels != nullptr, "this machine has no such instruction set");
    require(max_rows > 0, "max_rows must be positive");
    program_ = std::make_unique<Program>(pool.pool, kernels, max_rows, widths);
    count_ = static_cast<int>(widths.size());
  }

  Step step(Op op, int x, int y, int out) const {
    for (const int b : {x, y, out}) require(b >= -1 && b < count_, "no such buffer");
    Step s{};
    s.op = op;
    s.x = x;
    s.y = y;
    s.out = out;
    return s;
  }
  int64_t width(int b) const { return program_->buffer(b).width; }

  void embed(int out, const MatrixRef& w, float scale) {
    Step s = step(Op::embed, -1, -1, out);
    require(w.m.k == width(out), "embedding width");
    s.w = w.m;
    s.scale = scale;
    program_->add(s);
  }
  void lookup(int out, const TableRef& t, float scale) {
    Step s = step(Op::lookup, -1, -1, out);
    require(t.t.width == width(out), "table width");
    s.table = t.t;
    s.scale = scale;
    program_->add(s);
  }
  void concat(int a, int b, int out) {
    require(width(a) + width(b) == width(out), "concat widths");
    program_->add(step(Op::concat, a, b, out));
  }
  void norm(int x, int out, std::optional<In<float>> weight, float eps, int groups) {
    Step s = step(Op::norm, x, -1, out);
    require(groups > 0 && width(x) % groups == 0 && width(out) == width(x), "norm widths");
    require(!weight || static_cast<int64_t>(weight->size()) == width(x) / groups, "norm weight size");
    if (weight) {
      vectors_.push_back(*weight);
      s.vector = weight->data();
    }
    s.scale = eps;
    s.heads = groups;
    program_->add(s);
  }
  void linear(int x, int out, const MatrixRef& w, float scale) {
    Step s = step(Op::linear, x, -1, out);
    require(w.m.k == width(x) && w.m.n == width(out), "linear widths");
    s.w = w.m;
    s.scale = scale;
    program_->add(s);
  }
  void add(int a, int b, int out, float scale) {
    require(width(a) == width(b) && width(a) == width(out), "add widths");
    Step s = step(Op::add, a, b, out);
    s.scale = scale;
    program_->add(s);
  }
  void gelu(int gate, int up, int out, int64_t offset) {
    require(width(gate) == width(out) && offset >= 0 && offset + width(gate) <= width(up), "gelu widths");
    Step s = step(Op::gelu, gate, up, out);
    s.offset = offset;
    program_->add(s);
  }
  void rope(int x, int groups, int index) {
    require(groups > 0 && width(x) % (2 * groups) == 0 && index >= 0, "rope widths");
    Step s = step(Op::rope, x, -1, -1);
    s.heads = groups;
    s.index = index;
    dims_.resize(std::max(dims_.size(), static_cast<size_t>(index) + 1), INT64_MAX);
    int64_t& dim = dims_[static_cast<size_t>(index)];
    dim = std::min(dim, width(x) / groups / 2);
    program_->add(s);
  }
  void kv_store(int k, int v, int slot, int kv_heads) {
    require(width(k) == width(v) && kv_heads > 0 && width(k) % kv_heads == 0 && slot >= 0, "kv widths");
    Step s = step(Op::kv_store, k, v, -1);
    s.index = slot;
    s.kv_heads = kv_heads;
    s.head_dim = static_cast<int>(width(k) / kv_heads);
    slots_ = std::max(slots_, slot + 1);
    program_->add(s);
  }
  void attention(int q, int out, int slot, int heads, int kv_heads, int head_dim, int64_t window,
                 bool include_self) {
    require(heads > 0 && kv_heads > 0 && heads % kv_heads == 0 && slot >= 0 && window >= 0,
            "attention heads");
    require(head_dim > 0 && head_dim <= kMaxHeadDim, "head_dim must be 1 to 1024");
    require(width(q) == static_cast<int64_t>(heads) * head_dim && width(out) == width(q), "attention widths");
    Step s = step(Op::attention, q, -1, out);
    s.index = slot;
    s.heads = heads;
    s.kv_heads = kv_heads;
    s.head_dim = head_dim;
    s.window = window;
    s.include_self = include_self;
    slots_ = std::max(slots_, slot + 1);
    program_->add(s);
  }
  void softcap(int x, float cap) {
    Step s = step(Op::softcap, x, -1, -1);
    s.scale = cap;
    program_->add(s);
  }
  void gather(int x, int out) {
    require(width(x) == width(out), "gather widths");
    program_->add(step(Op::gather, x, -1, out));
  }
  void tap(int x, int index) {
    Step s = step(Op::tap, x, -1, -1);
    s.index = index;
    taps_ = std::max(taps_, index + 1);
    program_->add(s);
  }
  void experts(int x, int scores, int out, const MatrixRef& gate_up, const MatrixRef& down, int top_k,
               In<float> scale) {
    const int64_t count = gate_up.m.stack;
    require(down.m.stack == count && width(scores) == count && static_cast<int64_t>(scale.size()) == count,
            "expert count");
    require(top_k > 0 && top_k <= count, "top_k experts");
    require(gate_up.m.k == width(x) && gate_up.m.n == 2 * down.m.k && down.m.n == width(out),
            "expert widths");
    require(gate_up.m.format == down.m.format, "expert formats");
    vectors_.push_back(scale);
    program_->add_experts(x, scores, out, gate_up.m, down.m, top_k, scale.data());
  }
  void centroid_head(int x, int out, int ids, const MatrixRef& centroids, const MatrixRef& table,
                     In<int32_t> order, int top_k) {
    const int64_t clusters = centroids.m.n, size = table.m.n;
    require(program_->max_rows() == 1, "the centroid head runs one row at a time");
    require(table.m.stack == clusters && static_cast<int64_t>(order.size()) == clusters * size,
            "cluster sizes");
    require(top_k > 0 && top_k <= clusters && width(out) == top_k * size && width(ids) == width(out),
            "centroid widths");
    require(centroids.m.k == width(x) && table.m.k == width(x), "centroid widths");
    order_ = order;
    program_->add_centroid_head(x, out, ids, centroids.m, table.m, order.data(), size, top_k);
  }
  void finish(int hidden, int logits, int candidates, int hidden_in, const std::vector<int>& external) {
    hidden_ = hidden;
    logits_ = logits;
    candidates_ = candidates;
    hidden_in_ = hidden_in;
    program_->finish(hidden, logits, candidates, hidden_in, external);
  }

  Pass make_pass(In<uint64_t> caches, const std::vector<In<float>>& cosines,
                 const std::vector<In<float>>& sines, int64_t last) const {
    Pass pass;
    require(caches.ndim() == 3 && caches.shape(1) >= static_cast<size_t>(slots_) && caches.shape(2) == 3,
            "cache tables");
    for (size_t i = 0; i < caches.shape(0); ++i)
      pass.caches.push_back({caches.data() + i * caches.shape(1) * 3});
    require(cosines.size() == sines.size() && cosines.size() >= dims_.size(), "rope tables");
    for (size_t i = 0; i < cosines.size(); ++i) {
      require(cosines[i].ndim() == 2 && sines[i].size() == cosines[i].size(), "rope tables");
      require(static_cast<int64_t>(cosines[i].shape(0)) > last, "rope tables are too short");
      const int64_t pairs = static_cast<int64_t>(cosines[i].shape(1));
      require(i >= dims_.size() || pairs <= dims_[i], "rope tables are too wide");
      pass.ropes.push_back({cosines[i].data(), sines[i].data(), pairs});
    }
    return pass;
  }

  void run(In<int32_t> ids, In<int32_t> positions, In<int32_t> sequences, In<int32_t> head_rows,
           In<uint64_t> caches, const std::vector<In<float>>& cosines, const std::vector<In<float>>& sines,
           Out<float> hidden, Out<float> logits, std::vector<Out<float>> taps) {
    const int64_t rows = static_cast<int64_t>(ids.size()), heads = static_cast<int64_t>(head_rows.size());
    require(rows > 0 && rows <= program_->max_rows() && heads <= rows, "number of rows");
    require(positions.size() == ids.size() && sequences.size() == ids.size(), "rows differ in number");
    int64_t last = 0;
    for (int64_t r = 0; r < rows; ++r) {
      require(ids.data()[r] >= 0 && ids.data()[r] < program_->min_vocab(), "token id outside the vocabulary");
      require(positions.data()[r] >= 0, "negative position");
      require(sequences.data()[r] >= 0 && static_cast<size_t>(sequences.data()[r]) < caches.shape(0),
              "sequence index");
      last = std::max<int64_t>(last, positions.data()[r]);
    }
    for (int64_t h = 0; h < heads; ++h)
      require(head_rows.data()[h] >= 0 && head_rows.data()[h] < rows, "head row");
    require(static_cast<int64_t>(hidden.size()) == rows * width(hidden_), "hidden output size");
    require(static_cast<int64_t>(logits.size()) == heads * width(logits_), "logits output size");
    require(taps.empty() || taps.size() == static_cast<size_t>(taps_), "taps");
    Pass pass = make_pass(caches, cosines, sines, last);
    pass.rows = rows;
    pass.heads = heads;
    pass.ids = ids.data();
    pass.positions = pass.rope_positions = positions.data();
    pass.sequences = sequences.data();
    pass.head_rows = head_rows.data();
    for (Out<float>& tap : taps) pass.taps.push_back(tap.data());
    const nb::gil_scoped_release release;
    const std::lock_guard<std::mutex> lock(busy_);
    program_->bind(hidden_, hidden.data(), width(hidden_));
    program_->bind(logits_, logits.data(), width(logits_));
    program_->run(pass);
  }

  int64_t draft(int32_t token, In<float> hidden, int32_t position, int32_t rope_position, In<uint64_t> caches,
                const std::vector<In<float>>& cosines, const std::vector<In<float>>& sines, int64_t k,
                double temperature, int64_t top_k, double top_p, double min_p, uint64_t seed, uint64_t choice,
                std::optional<In<float>> calibration, std::optional<In<float>> ahead,
                std::optional<In<float>> need, Out<int32_t> ids, Out<float> probabilities, Out<float> logits,
                Out<float> next, Out<int32_t> candidates) {
    require(program_->max_rows() == 1 && hidden_in_ >= 0, "not a drafter");
    require(position > 0 && rope_position >= 0, "a draft needs a position after the first");
    require(token >= 0 && token < program_->min_vocab(), "token id outside the vocabulary");
    require(k > 0 && static_cast<int64_t>(ids.size()) == k && static_cast<int64_t>(probabilities.size()) == k,
            "k");
    require(static_cast<int64_t>(hidden.size()) == width(hidden_in_), "hidden size");
    require(static_cast<int64_t>(logits.size()) == width(logits_), "logits output size");
    require(static_cast<int64_t>(next.size()) == width(hidden_), "hidden output size");
    require(caches.shape(0) == 1, "one cache");
    DraftStop stop;
    if (need) {
      require(calibration && calibration->size() == kStopBins && ahead && need, "stop rule");
      require(static_cast<int64_t>(ahead->size()) >= k && static_cast<int64_t>(need->size()) >= k,
              "stop rule");
      stop = {calibration->data(), ahead->data(), need->data()};
    }
    const int32_t zero = 0;
    Pass pass = make_pass(caches, cosines, sines, rope_position);
    pass.rows = pass.heads = 1;
    pass.positions = &position;
    pass.rope_positions = &rope_position;
    pass.sequences = pass.head_rows = &zero;
    const bool want_candidates = candidates_ >= 0 && candidates.size() != 0;
    require(!want_candidates || static_cast<int64_t>(candidates.size()) == width(candidates_),
            "candidates output size");
    const DraftRule rule{temperature, top_k, top_p, min_p, seed, choice};
    const nb::gil_scoped_release release;
    const std::lock_guard<std::mutex> lock(busy_);
    program_->bind(hidden_, next.data(), width(hidden_));
    program_->bind(logits_, logits.data(), width(logits_));
    const int64_t count = program_->draft(pass, token, hidden.data(), position, k, rule, stop, ids.data(),
                                          probabilities.data());
    if (want_candidates) {
      const int32_t* from = reinterpret_cast<const int32_t*>(program_->buffer(candidates_).base);
      std::copy(from, from + candidates.size(), candidates.data());
    }
    return count;
  }
  int64_t expert_reads() const { return program_->expert_reads(); }

 private:
  std::unique_ptr<Program> program_;
  std::mutex busy_;  // buffers and scratch serve one pass at a time; taken without the GIL
  std::vector<In<float>> vectors_;
  std::optional<In<int32_t>> order_;
  std::vector<int64_t> dims_;  // least half head of each rope table's users
  int count_ = 0, slots_, taps_ = 0;
  int hidden_ = -1, logits_ = -1, candidates_ = -1, hidden_in_ = -1;
};

}  // namespace

NB_MODULE(_native, m) {
  m.doc() = "Geminate's kernels; use geminate.backends.cpu.program.";
  m.def("supported_isas", &supported_isas);
  m.def("stream_key", &stream_key);
  m.def("uniform", &uniform);
  nb::class_<MatrixRef>(m, "Matrix")
      .def(
          nb::init<const std::string&, int64_t, int64_t, int64_t, In<uint8_t>, std::optional<In<uint16_t>>>(),
          nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg().none());
  nb::class_<TableRef>(m, "RowTable")
      .def(nb::init<const std::string&, int64_t, int64_t, In<uint8_t>, std::optional<In<uint16_t>>>(),
           nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg().none());
  nb::class_<Pool>(m, "Pool")
      .def(nb::init<int>())
      .def("read_seconds", &Pool::read_seconds)
      .def("multiply_rate", &Pool::multiply_rate);
  nb::class_<PyProgram>(m, "Program")
      .def(nb::init<const Pool&, const std::string&, int64_t, const std::vector<int64_t>&>())
      .def("embed", &PyProgram::embed)
      .def("lookup", &PyProgram::lookup)
      .def("concat", &PyProgram::concat)
      .def("norm", &PyProgram::norm, nb::arg(), nb::arg(), nb::arg().none(), nb::arg(), nb::arg())
      .def("linear", &PyProgram::linear)
      .def("add", &PyProgram::add)
      .def("gelu", &PyProgram::gelu)
      .def("rope", &PyProgram::rope)
      .def("kv_store", &PyProgram::kv_store)
      .def("attention", &PyProgram::attention)
      .def("softcap", &PyProgram::softcap)
      .def("gather", &PyProgram::gather)
      .def("tap", &PyProgram::tap)
      .def("experts", &PyProgram::experts)
      .def("centroid_head", &PyProgram::centroid_head)
      .def("finish", &PyProgram::finish)
      .def("run", &PyProgram::run)
      .def("draft", &PyProgram::draft, nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
           nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
           nb::arg().none(), nb::arg().none(), nb::arg().none(), nb::arg(), nb::arg(), nb::arg(), nb::arg(),
           nb::arg())
      .def("expert_reads", &PyProgram::expert_reads);
}
