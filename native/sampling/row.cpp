#include "sampling/row.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "sampling/noise.h"

namespace geminate {
namespace {

constexpr double kLeastTemperature = 1e-300;  // as geminate.decoding.truncation has it
constexpr double kNoWeight = -31.25;          // scaled logits below it have the weight 0
constexpr size_t kKeptEntries = 1 << 16;      // more memory than this goes back after a row
constexpr double kHuge = 1e30;                // a peak for which floats are no bounds
constexpr float kLargest = std::numeric_limits<float>::max();

}  // namespace

void Row::begin(const SamplingKernels& kernels, const float* x, int64_t n, const DrawRule& rule, uint64_t key,
                const int32_t* tokens) {
  kernels_ = &kernels, x_ = x, n_ = n, tokens_ = tokens, allowed_ = nullptr;
  stripes_ = (n + kStripe - 1) / kStripe;
  rule_ = rule, key_ = key, drawn_ = -1, refused_ = cut_ = false, stage_ = Stage::done;
  temperature_ = std::max(rule.temperature, kLeastTemperature), inverse_ = 1.0 / temperature_;
  cut_x_ = -HUGE_VAL, cut_id_ = std::numeric_limits<int64_t>::max();
  maxima_.resize(static_cast<size_t>(stripes_ * kLanes));
  tops_.resize(static_cast<size_t>(stripes_));
  changes_.clear(), starts_.clear();
  if (entries_.capacity() > kKeptEntries) entries_ = {};
}

void Row::change(const std::vector<Changed>& changes) {
  if (changes.empty()) return;
  starts_.assign(static_cast<size_t>(stripes_ + 1), 0);
  const auto stripe_of = [](const Changed& c) { return static_cast<size_t>(c.id / kStripe); };
  for (const Changed& c : changes) ++starts_[stripe_of(c) + 1];
  for (size_t s = 1; s < starts_.size(); ++s) starts_[s] += starts_[s - 1];
  changes_.resize(changes.size());
  std::vector<int32_t> next(starts_.begin(), starts_.end() - 1);
  for (const Changed& c : changes) changes_[static_cast<size_t>(next[stripe_of(c)]++)] = c;
}

// Stripe s as the kernels want it, in place where it is.
const float* Row::stripe(int64_t s, float* buffer) const {
  const int64_t first = s * kStripe, count = std::min<int64_t>(kStripe, n_ - first);
  const size_t at = static_cast<size_t>(s);
  const bool changed = !starts_.empty() && starts_[at] != starts_[at + 1];
  if (count == kStripe && allowed_ == nullptr && !changed) return x_ + first;
  if (allowed_ != nullptr) {
    kernels_->restrict_to(x_ + first, allowed_ + first, count, buffer);
  } else {
    std::copy(x_ + first, x_ + first + count, buffer);
  }
  std::fill(buffer + count, buffer + kStripe, -HUGE_VALF);
  for (int32_t i = changed ? starts_[at] : 0; changed && i < starts_[at + 1]; ++i) {
    buffer[changes_[static_cast<size_t>(i)].id - first] = -HUGE_VALF;
  }
  return buffer;
}

bool Row::scan(int64_t begin, int64_t end) {
  alignas(64) float buffer[kStripe];
  bool finite = true;
  for (int64_t s = begin; s < end; ++s) {
    const float* x = stripe(s, buffer);
    float* maxima = maxima_.data() + s * kLanes;
    const bool all = kernels_->scan(x, maxima);
    finite &=
        x != buffer ? all : kernels_->finite(x_ + s * kStripe, std::min<int64_t>(kStripe, n_ - s * kStripe));
    tops_[static_cast<size_t>(s)] = *std::max_element(maxima, maxima + kLanes);
  }
  return finite;
}

void Row::settle(bool finite) {
  if (!finite || refused_) return;
  peak_ = *std::max_element(tops_.begin(), tops_.end());
  for (Changed& c : changes_) {
    if (!(c.x < HUGE_VAL)) return;
    if (allowed_ != nullptr && allowed_[c.id] == 0) c.x = -HUGE_VAL;
    peak_ = std::max(peak_, c.x);
  }
  if (peak_ == -HUGE_VAL) return;
  if (rule_.temperature == 0.0) {
    drawn_ = greedy();
    return;
  }
  if (tokens_ != nullptr || (rule_.top_k > 0 && rule_.top_k < n_)) {
    select(std::min(n_, rule_.top_k));
    drawn_ = draw_selected();
    return;
  }
  stage_ = Stage::noise;
}

int64_t Row::draw() {
  settle(scan(0, stripes_));
  while (stage_ != Stage::done) {
    if (stage_ == Stage::noise) {
      propose(noise(0, stripes_));
    } else if (stage_ == Stage::mass) {
      check(weigh(0, stripes_));
    } else {
      uint64_t buckets[kBuckets] = {};
      weigh(0, stripes_, buckets);
      cut(buckets);
    }
  }
  return drawn_;
}

int64_t Row::greedy() const {
  int64_t best = std::numeric_limits<int64_t>::max();
  for (const Changed& c : changes_) {
    if (c.x == peak_) best = std::min<int64_t>(best, c.id);
  }
  for (int64_t s = 0; s < stripes_ && s * kStripe < best; ++s) {
    if (tops_[static_cast<size_t>(s)] != peak_) continue;
    alignas(64) float buffer[kStripe];
    const float* x = stripe(s, buffer);
    return std::min(best, s * kStripe + (std::find(x, x + kStripe, tops_[static_cast<size_t>(s)]) - x));
  }
  return best;
}

// Floats below and above the logits whose scaled value is y: the margin is some ten times the rounding of
// all terms.
float Row::below(double y) const {
  const double v = peak_ + y * temperature_, margin = 1e-6 * (std::fabs(peak_) + std::fabs(y * temperature_));
  const double low = v - margin - 1e-37;
  return low > kLargest ? HUGE_VALF : low > -kLargest ? static_cast<float>(low) : -kLargest;
}

float Row::above(double y) const {
  const double v = peak_ + y * temperature_, margin = 1e-6 * (std::fabs(peak_) + std::fabs(y * temperature_));
  const double high = v + margin + 1e-37;
  return high < kLargest ? static_cast<float>(std::max(high, -static_cast<double>(kLargest))) : kLargest;
}

// A value that k logits of x reach, and few more: the k-th largest of the maxima of groups of logits.
float Row::bound_of_largest(int64_t k) {
  groups_.assign(maxima_.begin(), maxima_.end());
  int64_t rows = stripes_;
  for (int64_t half; rows > 1 && rows * kLanes >= 8 * k; rows = half) {
    half = (rows + 1) / 2;
    for (int64_t i = 0; i < (rows - half) * kLanes; ++i) {
      float& into = groups_[static_cast<size_t>(i)];
      into = std::max(into, groups_[static_cast<size_t>(i + half * kLanes)]);
    }
  }
  if (k > rows * kLanes) return -kLargest;
  const auto at = groups_.begin() + (k - 1);
  std::nth_element(groups_.begin(), at, groups_.begin() + rows * kLanes, std::greater<float>());
  return std::max(*at, -kLargest);
}

void Row::collect(int64_t s, float low, float high, std::vector<Entry>& out) const {
  if (tops_[static_cast<size_t>(s)] < low) return;
  alignas(64) float buffer[kStripe];
  int32_t found[kStripe];
  const float* x = stripe(s, buffer);
  const int count = kernels_->collect(x, low, high, found);
  for (int i = 0; i < count; ++i) {
    out.push_back({x[found[i]], 0, static_cast<int32_t>(s * kStripe) + found[i]});
  }
}

// The k largest into entries_, in any order.
void Row::select(int64_t k) {
  entries_.clear();
  const float low = bound_of_largest(k);
  for (int64_t s = 0; s < stripes_; ++s) collect(s, low, kLargest, entries_);
  for (const Changed& c : changes_) {
    if (c.x >= low) entries_.push_back({c.x, 0, c.id});
  }
  if (static_cast<int64_t>(entries_.size()) > k) {
    std::nth_element(entries_.begin(), entries_.begin() + k, entries_.end());
    entries_.resize(static_cast<size_t>(k));
  }
}

void Row::top(int64_t k, int32_t* ids, double* values) {
  select(k);
  std::sort(entries_.begin(), entries_.end());
  for (size_t i = 0; i < entries_.size(); ++i) ids[i] = entries_[i].id, values[i] = entries_[i].x;
}

// The integer that masses are compared with: mass < top_p * total, exactly as the reference rounds it.
static uint64_t limit_of(double top_p, uint64_t total) {
  return static_cast<uint64_t>(std::ceil(top_p * static_cast<double>(static_cast<int64_t>(total))));
}

// Leaves the first entries in order, up to the one with which their mass reaches `limit`; that is the last.
void Row::keep_mass(uint64_t limit) {
  size_t low = 0, high = entries_.size();
  uint64_t before = 0;
  const auto begin = entries_.begin();
  while (high - low > 64) {
    const size_t middle = low + (high - low) / 2;
    std::nth_element(begin + low, begin + middle, begin + high);
    uint64_t mass = before;
    for (size_t i = low; i < middle; ++i) mass += entries_[i].weight;
    if (mass >= limit) {
      high = middle;
    } else {
      before = mass, low = middle;
    }
  }
  std::sort(begin + low, begin + high);
  while (low < high && before < limit) before += entries_[low++].weight;
  entries_.resize(low);
}

int64_t Row::draw_selected() {
  if (rule_.top_p < 1.0) {
    uint64_t total = 0;
    for (Entry& e : entries_) total += e.weight = elementary::weight(scaled(e.x));
    keep_mass(limit_of(rule_.top_p, total));
  }
  Winner best;
  for (const Entry& e : entries_) offer(best, e.x, e.id);
  return best.id;
}

void Row::weigh(int64_t begin, int64_t end, uint64_t* buckets) const {
  alignas(64) float buffer[kStripe];
  const float low = below(kNoWeight);
  for (int64_t s = begin; s < end; ++s) {
    if (tops_[static_cast<size_t>(s)] < low) continue;
    kernels_->weigh_buckets(stripe(s, buffer), peak_, inverse_, low, buckets);
  }
}

Mass Row::weigh(int64_t begin, int64_t end) const {
  alignas(64) float buffer[kStripe];
  const float low = below(kNoWeight);
  // Floats from the winner's logit on, and past it: equal ones are before it as far as their index is lower.
  float from = static_cast<float>(std::clamp<double>(drawn_x_, -kLargest, kLargest));
  if (from < drawn_x_) from = std::nextafterf(from, HUGE_VALF);
  const float past = from == drawn_x_ ? std::nextafterf(from, HUGE_VALF) : from;
  const int64_t own = drawn_ / kStripe;
  Mass mass;
  for (int64_t s = begin; s < end; ++s) {
    if (tops_[static_cast<size_t>(s)] < low) continue;
    const float* x = stripe(s, buffer);
    mass.total += kernels_->weigh(x, peak_, inverse_, low, s < own ? from : past, &mass.before);
    if (drawn_ < 0 || s != own) continue;
    const int64_t equal = std::count(x, x + drawn_ % kStripe, from);
    if (from == drawn_x_) mass.before += static_cast<uint64_t>(equal) * elementary::weight(scaled(drawn_x_));
  }
  return mass;
}

void Row::check(Mass mass) {
  const Entry winner{drawn_x_, 0, static_cast<int32_t>(drawn_)};
  for (const Changed& c : changes_) {
    const uint64_t weight = elementary::weight(scaled(c.x));
    mass.total += weight;
    if (Entry{c.x, 0, c.id} < winner) mass.before += weight;
  }
  stage_ = mass.before < limit_of(rule_.top_p, mass.total) ? Stage::done : Stage::buckets;
}

void Row::cut(uint64_t* buckets) {
  stage_ = Stage::noise, cut_ = true;
  for (const Changed& c : changes_) buckets[bucket_of(scaled(c.x))] += elementary::weight(scaled(c.x));
  uint64_t total = 0, before = 0;
  for (int b = 0; b < kBuckets; ++b) total += buckets[b];
  const uint64_t limit = limit_of(rule_.top_p, total);
  int last = 0;
  while (last < kBuckets && before + buckets[last] < limit) before += buckets[last++];
  if (last == kBuckets) return;  // top_p * total was rounded up past the total: all tokens stay
  entries_.clear();
  const float low = below(-(last + 1) / 32.0), high = above(-last / 32.0);
  for (int64_t s = 0; s < stripes_; ++s) collect(s, low, high, entries_);
  for (const Changed& c : changes_) entries_.push_back({c.x, 0, c.id});
  std::erase_if(entries_, [&](const Entry& e) { return bucket_of(scaled(e.x)) != last; });
  for (Entry& e : entries_) e.weight = elementary::weight(scaled(e.x));
  keep_mass(limit - before);
  cut_x_ = entries_.back().x, cut_id_ = entries_.back().id;
}

Winner Row::noise(int64_t begin, int64_t end) const {
  alignas(64) float buffer[kStripe];
  int32_t found[kStripe];
  Winner best;
  // What limits the support, then what the best so far leaves a chance. The largest logit, wherever it is,
  // scores kLeastNoise at least.
  const float kept = std::max(below(rule_.least), cut_x_ > -kLargest ? below(scaled(cut_x_)) : -kLargest);
  const bool huge = std::fabs(peak_) > kHuge;
  const double slope = inverse_ * elementary::kLog2E;
  const float slack = kSlack + static_cast<float>(std::min(std::fabs(peak_) * slope * 0x1p-23, kHuge));
  NoiseBound bound{kept, static_cast<float>(huge ? 0.0 : peak_),
                   static_cast<float>(huge ? 0.0 : std::min(slope, kHuge)), 0.0f};
  const auto update = [&] {
    const double score = std::max(best.score, kLeastNoise);
    bound.low = std::max(kept, below(score - kMostNoise));
    bound.start = huge ? 160.0f : 127.0f + slack - static_cast<float>(score * elementary::kLog2E);
  };
  update();
  for (int64_t s = begin; s < end; ++s) {
    if (tops_[static_cast<size_t>(s)] < bound.low) continue;
    const float* x = stripe(s, buffer);
    const uint64_t state = key_ + (static_cast<uint64_t>(s) * kStripe + 1) * kGamma;
    const int count = kernels_->noisy(x, state, bound, found);
    if (count == 0) continue;
    for (int i = 0; i < count; ++i) offer(best, x[found[i]], s * kStripe + found[i]);
    update();
  }
  return best;
}

void Row::propose(Winner best) {
  for (const Changed& c : changes_) offer(best, c.x, c.id);
  drawn_ = best.id;
  drawn_x_ = logit(drawn_);
  // The second time, after `cut`, the winner is one that top_p keeps.
  stage_ = rule_.top_p < 1.0 && !cut_ ? Stage::mass : Stage::done;
}

double Row::logit(int64_t id) const {
  for (const Changed& c : changes_) {
    if (c.id == id) return c.x;
  }
  return x_[id];
}

// Takes index `id` if it is in the support and its score is higher, or equal and its index lower.
void Row::offer(Winner& best, double x, int64_t id) const {
  if (x < cut_x_ || (x == cut_x_ && id > cut_id_)) return;
  const double y = scaled(x), room = y - best.score;  // infinite as long as there is none
  if (y < rule_.least || y == -HUGE_VAL || room < -kMostNoise) return;
  const uint64_t bits = noise_bits(key_, static_cast<uint64_t>(tokens_ != nullptr ? tokens_[id] : id));
  if (!may_win(bits, 127.0f + kSlack + static_cast<float>(room * elementary::kLog2E))) return;
  const double score = y + gumbel_of(bits);
  if (score > best.score || (score == best.score && id < best.id)) best = {score, id};
}

}  // namespace geminate
