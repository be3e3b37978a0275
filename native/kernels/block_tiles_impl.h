// Products of the block formats: codes of 4, 5 or 6 bits, scales in records, some with minima.
// Included by kernels_impl.h, before linear_impl.h.

// Where the sums of a group begin: minus what was added to the stored codes, times the activations.
template <Format T>
static inline I block_start(const QuantGroup& x, int half) {
  if constexpr (T == Format::q6_k) return same_sums(x.start6[half]);
  if constexpr (T == Format::q5_0) return same_sums(2 * x.start4);
  return same_sums(0);
}

// As tile_int8, of a block format; `groups` begin at a block.
template <Format T, int R>
static inline void tile_blocks(const uint8_t* w, const uint16_t* records, int64_t groups, const QuantGroup* x,
                               int64_t stride, F* acc) {
  constexpr FormatInfo f = info(T);
  constexpr Cells kCells = cells_of(T);
  constexpr int kGroups = f.block / kGroup, kSums = kCells == Cells::six ? 2 : 1;
  constexpr int64_t kWords = 16 * f.record_words(), kCell = f.cell_bytes();
  constexpr int64_t kRecordAhead = kAhead * 2 * kWords / (kCell * kGroups);
  constexpr int kLines = static_cast<int>((2 * kWords + 63) / 64);  // of a record
  for (int64_t first = 0; first < groups; first += kGroups, records += kWords) {
    const F d = load_half(records);
    F dmin = d;
    if constexpr (f.halves == 2) dmin = load_half(records + 16);
    const uint8_t* small = reinterpret_cast<const uint8_t*>(records + 16 * f.halves);
    const int here = groups - first < kGroups ? static_cast<int>(groups - first) : kGroups;
    for (int i = 0; i < here; ++i, w += kCell, x += stride) {
      if (i < kLines) prefetch(records + kRecordAhead / 2 + 32 * i);
      I sum[kSums * R];
      for (int m = 0; m < kSums * R; ++m) sum[m] = block_start<T>(x[m % R], m / R);
      add_cell<kCells, R>(w, x, sum);
      for (int half = 0; half < kSums; ++half) {
        F ws = d;
        if constexpr (T == Format::q6_k) {
          ws = mul(d, load_s8(small + 16 * (2 * i + half)));
        } else if constexpr (f.small > 0) {
          ws = mul(d, load_u8(small + 16 * i));
        }
        for (int m = 0; m < R; ++m) {
          acc[m] = fma(to_float(sum[half * R + m]), mul(ws, set1(x[m].scale)), acc[m]);
        }
      }
      if constexpr (f.halves == 2) {
        F wm = dmin;
        if constexpr (f.small > 0) wm = mul(dmin, load_u8(small + 16 * (kGroups + i)));
        for (int m = 0; m < R; ++m) acc[m] = fma(wm, set1(x[m].minus), acc[m]);
      }
    }
  }
}
