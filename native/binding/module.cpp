// The Python module geminate._native; src/geminate/_native.pyi gives its types.
#include <cstdio>  // nanobind 3.1 uses it, and Python.h lacks it under the stable ABI

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "binding/bus_error.h"
#include "binding/program.h"
#include "binding/sampling.h"
#include "sampling/noise.h"

namespace geminate {
namespace {

using nb::literals::operator""_a;

void add_steps(nb::class_<ProgramRef>& program) {
  program.def("embed", &ProgramRef::embed, "out"_a, "table"_a, "scale"_a)
      .def("lookup", &ProgramRef::lookup, "out"_a, "table"_a, "scale"_a, "column"_a)
      .def("concat", &ProgramRef::concat, "a"_a, "b"_a, "out"_a)
      .def("norm", &ProgramRef::norm, "x"_a, "out"_a, "weight"_a.none(), "eps"_a, "groups"_a)
      .def("linear", &ProgramRef::linear, "x"_a, "out"_a, "w"_a, "scale"_a)
      .def("add", &ProgramRef::add, "a"_a, "b"_a, "out"_a, "scale"_a)
      .def("gelu", &ProgramRef::gelu, "gate"_a, "up"_a, "out"_a, "offset"_a)
      .def("rope", &ProgramRef::rope, "x"_a, "groups"_a, "table"_a)
      .def("kv_store", &ProgramRef::kv_store, "keys"_a, "values"_a, "slot"_a, "kv_heads"_a)
      .def("attention", &ProgramRef::attention, "q"_a, "out"_a, "slot"_a, "heads"_a, "kv_heads"_a,
           "head_dim"_a, "window"_a, "include_self"_a)
      .def("softcap", &ProgramRef::softcap, "x"_a, "cap"_a)
      .def("gather", &ProgramRef::gather, "x"_a)
      .def("tap", &ProgramRef::tap, "x"_a, "index"_a)
      .def("experts", &ProgramRef::experts, "x"_a, "scores"_a, "out"_a, "gate_up"_a, "down"_a, "top_k"_a,
           "scale"_a)
      .def("centroid_head", &ProgramRef::centroid_head, "x"_a, "out"_a, "ids"_a, "centroids"_a, "table"_a,
           "order"_a, "top_k"_a)
      .def("finish", &ProgramRef::finish, "hidden"_a, "logits"_a, "candidates"_a, "hidden_in"_a,
           "external"_a);
}

void add_runs(nb::class_<ProgramRef>& program) {
  program
      .def("run", &ProgramRef::run, "ids"_a, "positions"_a, "sequences"_a, "head_rows"_a, "caches"_a,
           "cosines"_a, "sines"_a, "hidden"_a, "logits"_a, "taps"_a, "largest"_a = false)
      .def("draft", &ProgramRef::draft, "token"_a, "hidden"_a, "position"_a, "rope_position"_a, "caches"_a,
           "cosines"_a, "sines"_a, "k"_a, "temperature"_a, "top_k"_a, "top_p"_a, "min_p"_a, "seed"_a,
           "choice"_a, "calibration"_a.none(), "ahead"_a.none(), "need"_a.none(), "ids"_a, "probabilities"_a,
           "logits"_a, "next"_a, "candidates"_a)
      .def("expert_reads", &ProgramRef::expert_reads);
}

void add_sampler(nb::module_& m) {
  m.def("stream_key", &stream_key, "seed"_a, "choice"_a, "position"_a);
  m.def(
      "uniform", [](uint64_t key, uint64_t token_id) { return uniform_of(noise_bits(key, token_id)); },
      "key"_a, "token_id"_a);
  m.def("logarithm", &elementary::log, "z"_a);
  m.def("weight", &elementary::weight, "y"_a);
  nb::class_<RuleRef>(m, "SamplingRule")
      .def(nb::init<double, int64_t, double, double, double, double, double, const std::vector<int64_t>&,
                    const std::vector<double>&, uint64_t, uint64_t>(),
           "temperature"_a, "top_k"_a, "top_p"_a, "least"_a, "repetition"_a, "presence"_a, "frequency"_a,
           "bias_ids"_a, "bias_amounts"_a, "seed"_a, "choice"_a);
  nb::class_<SamplerRef>(m, "Sampler")
      .def(nb::init<const PoolRef&, const std::string&>(), "pool"_a, "isa"_a)
      .def("draw", &SamplerRef::draw, "logits"_a, "rules"_a, "firsts"_a, "positions"_a, "drafts"_a,
           "counted"_a, "allowed"_a.none())
      .def("logprobs", &SamplerRef::logprobs, "logits"_a, "tokens"_a, "top"_a, "chosen"_a, "ids"_a,
           "values"_a);
}

// What users can mend becomes the package's own error.
void translate(const std::exception_ptr& thrown, void*) {
  try {
    std::rethrow_exception(thrown);
  } catch (const NoThreadsError& error) {
    const nb::object type = nb::module_::import_("geminate.errors").attr("BackendError");
    PyErr_SetString(type.ptr(), error.what());
  }
}

}  // namespace
}  // namespace geminate

NB_MODULE(_native, m) {
  using namespace geminate;
  m.doc() = "Geminate's kernels; use geminate.backends.cpu.program.";
  nb::register_exception_translator(translate);
  nb::set_leak_warnings(false);  // a daemon thread holds its objects when the process exits
  m.def("arithmetic", [] { return kArithmetic; });
  m.def("report_bus_errors", &report_bus_errors, "head"_a, "tail"_a);
  m.def("supported_isas", &supported_isas);
  nb::class_<MatrixRef>(m, "Matrix")
      .def(nb::init<const std::string&, int64_t, int64_t, int64_t, In<uint8_t>, std::optional<In<uint16_t>>,
                    std::optional<In<float>>, float, float>(),
           "format"_a, "n"_a, "k"_a, "stack"_a, "data"_a, "scales"_a.none(),
           "row_scales"_a.none() = nb::none(), "input_scale"_a = 0.0f, "output_scale"_a = 0.0f);
  nb::class_<TableRef>(m, "RowTable")
      .def(nb::init<const std::string&, int64_t, int64_t, In<uint8_t>, std::optional<In<uint16_t>>,
                    std::optional<In<float>>>(),
           "format"_a, "rows"_a, "width"_a, "data"_a, "scales"_a.none(), "row_scales"_a.none() = nb::none());
  nb::class_<PoolRef>(m, "Pool")
      .def(nb::init<int>(), "threads"_a)
      .def("read_seconds", &PoolRef::read_seconds, "isa"_a, "data"_a)
      .def("multiply_rate", &PoolRef::multiply_rate, "isa"_a, "rounds"_a);
  nb::class_<ProgramRef> program(m, "Program");
  program.def(nb::init<const PoolRef&, const std::string&, int64_t, const std::vector<int64_t>&>(), "pool"_a,
              "isa"_a, "max_rows"_a, "widths"_a);
  add_steps(program);
  add_runs(program);
  add_sampler(m);
}
