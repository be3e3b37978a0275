// Which steps of a plan may run side by side.
#include <algorithm>

#include "program/steps.h"

namespace geminate {
namespace {

bool meets(const std::vector<int>& a, const std::vector<int>& b) {
  return std::any_of(a.begin(), a.end(), [&](int r) { return std::find(b.begin(), b.end(), r) != b.end(); });
}

bool conflict_between(const Uses& before, const Uses& after) {
  return meets(after.reads, before.writes) || meets(after.writes, before.writes) ||
         meets(after.writes, before.reads);
}

// Steps over the same rows run row by row in one piece: what one writes the next may read.
bool share_pieces(const Step& a, const Step& b) {
  return a.split == Split::rows && b.split == Split::rows && a.head_rows == b.head_rows;
}

}  // namespace

std::vector<Stage> make_stages(const std::vector<Step>& steps) {
  std::vector<Stage> stages;
  size_t since = 0;
  for (size_t i = 0; i < steps.size(); ++i) {
    bool conflict = stages.empty();
    for (size_t j = since; j < i && !conflict; ++j) {
      conflict = !share_pieces(steps[j], steps[i]) && conflict_between(steps[j].uses, steps[i].uses);
    }
    if (conflict) {
      stages.emplace_back();
      since = i;
    }
    Stage& stage = stages.back();
    const auto joined = std::find_if(
        stage.begin(), stage.end(), [&](const Work& w) { return share_pieces(steps[w.steps[0]], steps[i]); });
    if (joined != stage.end()) {
      joined->steps.push_back(i);
    } else {
      stage.push_back({steps[i].split, steps[i].head_rows, {i}});
    }
  }
  return stages;
}

}  // namespace geminate
