// Checks the arrays of a pass or a draft, then runs it without the GIL.
#include <algorithm>

#include "binding/program.h"

namespace geminate {

void ProgramRef::require_rows(const In<int32_t>& ids, const In<int32_t>& positions,
                              const In<int32_t>& sequences, const In<int32_t>& head_rows,
                              size_t caches) const {
  const int64_t rows = size_of(ids), heads = size_of(head_rows);
  require(rows > 0 && rows <= program_->max_rows(), "run: the number of rows is ", rows,
          ", but the program takes 1 to ", program_->max_rows());
  require_size(positions, rows, "run", "positions", rows, " ids");
  require_size(sequences, rows, "run", "sequences", rows, " ids");
  require(heads <= rows, "run: head_rows has ", heads, " values, but the number of rows is ", rows);
  for (int64_t r = 0; r < rows; ++r) {
    require_token(ids.data()[r], "run: ids[", r, "]");
    require(positions.data()[r] >= 0, "run: positions[", r, "] is ", positions.data()[r],
            ", but must be 0 or more");
    const int32_t sequence = sequences.data()[r];
    require(sequence >= 0 && static_cast<size_t>(sequence) < caches, "run: sequences[", r, "] is ", sequence,
            ", but the number of caches is ", caches);
  }
  require(program_->gathers() || heads == rows, "run: head_rows has ", heads,
          " values, but the program gathers none of its ", rows, " rows");
  for (int64_t h = 0; h < heads; ++h) {
    const int32_t row = head_rows.data()[h];
    require(row >= 0 && row < rows, "run: head_rows[", h, "] is ", row, ", but the number of rows is ", rows);
    require(h == 0 || row > head_rows.data()[h - 1], "run: head_rows[", h, "] is ", row,
            ", but they must ascend");
  }
}

Pass ProgramRef::make_pass(const char* call, const In<uint64_t>& caches,
                           const std::vector<In<float>>& cosines, const std::vector<In<float>>& sines,
                           int64_t last) const {
  Pass pass;
  require(caches.shape(1) >= static_cast<size_t>(slots_) && caches.shape(2) == kSlotFields, call,
          ": caches is [", caches.shape(0), ", ", caches.shape(1), ", ", caches.shape(2),
          "], expected [caches, ", slots_, " slots or more, ", kSlotFields, "]");
  for (size_t i = 0; i < caches.shape(0); ++i) {
    pass.caches.push_back({caches.data() + i * caches.shape(1) * kSlotFields});
  }
  require(cosines.size() >= dims_.size() && sines.size() == cosines.size(), call, ": cosines and sines have ",
          cosines.size(), " and ", sines.size(), " tables, but the program takes ", dims_.size());
  for (size_t i = 0; i < cosines.size(); ++i) {
    const In<float>&cosine = cosines[i], &sine = sines[i];
    require(cosine.ndim() == 2, call, ": cosines[", i, "] has ", cosine.ndim(),
            " dimensions, expected [positions, pairs]");
    const int64_t positions = static_cast<int64_t>(cosine.shape(0)),
                  pairs = static_cast<int64_t>(cosine.shape(1));
    require(sine.size() == cosine.size(), call, ": sines[", i, "] has ", sine.size(), " values, but cosines[",
            i, "] has ", cosine.size());
    require(positions > last, call, ": cosines[", i, "] ends before position ", positions,
            ", but the last row is at ", last);
    require(i >= dims_.size() || pairs <= dims_[i], call, ": cosines[", i, "] has ", pairs,
            " pairs, but a head has ", i < dims_.size() ? dims_[i] : 0);
    pass.ropes.push_back({cosine.data(), sine.data(), pairs});
  }
  return pass;
}

void ProgramRef::run(In<int32_t> ids, In<int32_t> positions, In<int32_t> sequences, In<int32_t> head_rows,
                     In<uint64_t> caches, const std::vector<In<float>>& cosines,
                     const std::vector<In<float>>& sines, Out<float> hidden, Out<float> logits,
                     std::vector<Out<float>> taps, bool largest) {
  require(caches.ndim() == 3, "run: caches has ", caches.ndim(), " dimensions, expected [caches, slots, ",
          kSlotFields, "]");
  require_rows(ids, positions, sequences, head_rows, caches.shape(0));
  const int64_t rows = size_of(ids), heads = size_of(head_rows);
  require_size(hidden, heads * width(hidden_), "run", "hidden", heads, " rows of ", width(hidden_));
  require_size(logits, heads * width(logits_), "run", "logits", heads, " rows of ", width(logits_));
  require(taps.empty() || taps.size() == static_cast<size_t>(taps_), "run: taps has ", taps.size(),
          " arrays, but the program has ", taps_, " taps");
  require(taps.empty() || heads == rows, "run: taps show every row, but of ", rows, " rows ", heads,
          " are head rows");
  const int64_t last = *std::max_element(positions.data(), positions.data() + rows);
  Pass pass = make_pass("run", caches, cosines, sines, last);
  pass.rows = rows;
  pass.heads = heads;
  pass.ids = ids.data();
  pass.positions = pass.rope_positions = positions.data();
  pass.sequences = sequences.data();
  pass.head_rows = head_rows.data();
  pass.largest = largest;
  for (Out<float>& tap : taps) pass.taps.push_back(tap.data());
  const nb::gil_scoped_release release;
  const std::lock_guard<std::mutex> lock(busy_);
  program_->bind(hidden_, hidden.data(), width(hidden_));
  program_->bind(logits_, logits.data(), width(logits_));
  program_->run(pass);
}

static DraftStop make_stop(int64_t k, const std::optional<In<float>>& calibration,
                           const std::optional<In<float>>& ahead, const std::optional<In<float>>& need) {
  if (!need) return {};
  require(calibration && ahead, "draft: need is given, so calibration and ahead must be");
  require_size(*calibration, kStopBins, "draft", "calibration", kStopBins, " bins");
  require(size_of(*ahead) >= k, "draft: ahead has ", ahead->size(), " values, but k is ", k);
  require(size_of(*need) >= k, "draft: need has ", need->size(), " values, but k is ", k);
  return {calibration->data(), ahead->data(), need->data()};
}

int64_t ProgramRef::draft(int32_t token, In<float> hidden, int32_t position, int32_t rope_position,
                          In<uint64_t> caches, const std::vector<In<float>>& cosines,
                          const std::vector<In<float>>& sines, int64_t k, double temperature, int64_t top_k,
                          double top_p, double min_p, uint64_t seed, uint64_t choice,
                          std::optional<In<float>> calibration, std::optional<In<float>> ahead,
                          std::optional<In<float>> need, Out<int32_t> ids, Out<float> probabilities,
                          Out<float> logits, Out<float> next, Out<int32_t> candidates) {
  require(program_->max_rows() == 1 && hidden_in_ >= 0,
          "draft: the program is no drafter: that takes one row at a time and has a buffer hidden_in");
  require(position > 0, "draft: position is ", position, ", but a draft begins after the first token");
  require(rope_position >= 0, "draft: rope_position is ", rope_position, ", but must be 0 or more");
  require_token(token, "draft: token");
  require(k > 0, "draft: k must be positive, but is ", k);
  require_size(ids, k, "draft", "ids", k, " tokens");
  require_size(probabilities, k, "draft", "probabilities", k, " tokens");
  require_size(hidden, width(hidden_in_), "draft", "hidden", "one row");
  require_size(logits, width(logits_), "draft", "logits", "one row");
  require_size(next, width(hidden_), "draft", "next", "one row");
  require(caches.ndim() == 3, "draft: caches has ", caches.ndim(), " dimensions, expected [1, slots, ",
          kSlotFields, "]");
  require(caches.shape(0) == 1, "draft: caches has ", caches.shape(0), " sequences, expected 1");
  const bool want_candidates = candidates_ >= 0 && candidates.size() != 0;
  if (want_candidates) require_size(candidates, width(candidates_), "draft", "candidates", "one row");
  const DraftStop stop = make_stop(k, calibration, ahead, need);
  const int32_t zero = 0;
  Pass pass = make_pass("draft", caches, cosines, sines, rope_position);
  pass.rows = pass.heads = 1;
  pass.positions = &position;
  pass.rope_positions = &rope_position;
  pass.sequences = pass.head_rows = &zero;
  const DraftRule rule{temperature, top_k, top_p, min_p, seed, choice};
  const nb::gil_scoped_release release;
  const std::lock_guard<std::mutex> lock(busy_);
  program_->bind(hidden_, next.data(), width(hidden_));
  program_->bind(logits_, logits.data(), width(logits_));
  const int64_t count =
      program_->draft(pass, token, hidden.data(), position, k, rule, stop, ids.data(), probabilities.data());
  if (want_candidates) {
    const int32_t* from = reinterpret_cast<const int32_t*>(program_->buffer(candidates_).base);
    std::copy(from, from + candidates.size(), candidates.data());
  }
  return count;
}

}  // namespace geminate
