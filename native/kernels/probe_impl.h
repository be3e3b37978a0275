// What the machine can do at most: reading memory, and integer products from registers. Included by
// kernels_impl.h.

// The OR of the integer sums over all bytes, so that no read is left out. bytes: a multiple of 256.
static int32_t read_bytes(const uint8_t* data, int64_t bytes) {
  I sum[4] = {start8(0), start8(0), start8(0), start8(0)};
  const int8_t ones[4] = {1, 1, 1, 1};
  for (int64_t at = 0; at < bytes; at += 256) {
    for (int c = 0; c < 4; ++c) sum[c] = dot8(sum[c], load_w8(data + at + 64 * c), ones);
  }
  float lane[16];
  F all = set1(0.0f);
  for (int c = 0; c < 4; ++c) all = add(all, to_float(sum[c]));
  store(lane, all);
  int32_t seen = 0;
  for (int i = 0; i < 16; ++i) seen |= static_cast<int32_t>(lane[i]);
  return seen;
}

// kProbeDots products of 64 bytes each a round, in chains enough to hide their latency.
static int32_t multiply_bytes(int64_t rounds) {
  constexpr int kChains = kRowBlock > 4 ? 8 : 4;
  uint8_t weights[64];
  for (int i = 0; i < 64; ++i) weights[i] = static_cast<uint8_t>(i + 1);
  int8_t x[64 + 4 * kProbeDots];
  for (int i = 0; i < 64 + 4 * kProbeDots; ++i) x[i] = static_cast<int8_t>(i);
  I sum[kChains];
  for (int c = 0; c < kChains; ++c) sum[c] = start8(c);
  const W8 w = load_w8(weights);
  for (int64_t r = 0; r < rounds; ++r) {
    const int8_t* codes = x + 4 * (r & 15);  // other codes each time, or the products would leave the loop
#pragma GCC unroll 64
    for (int i = 0; i < kProbeDots; ++i) sum[i % kChains] = dot8(sum[i % kChains], w, codes + 4 * i);
  }
  float lane[16];
  F all = set1(0.0f);
  for (int c = 0; c < kChains; ++c) all = add(all, to_float(sum[c]));
  store(lane, all);
  return static_cast<int32_t>(lane[0]);
}
