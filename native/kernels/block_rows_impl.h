// Single rows of the block formats. Included by kernels_impl.h, before rowwise_impl.h.

// A row of a matrix in a block format.
static inline void embed_blocks(const Matrix& w, int64_t row, float scale, float* out) {
  const FormatInfo& f = info(w.format);
  const Cells cells = cells_of(w.format);
  const int groups = f.block / kGroup, r = static_cast<int>(row % 16);
  const int64_t tile = row / 16, words = 16 * f.record_words();
  const int offset = w.format == Format::q6_k ? 32 : w.format == Format::q5_0 ? 16 : 0;
  for (int64_t g = 0; g < w.groups; ++g) {
    const uint8_t* cell = w.data + (tile * w.groups + g) * f.cell_bytes();
    const uint16_t* record = w.scales + (tile * w.blocks() + g / groups) * words;
    const uint8_t* small = reinterpret_cast<const uint8_t*>(record + 16 * f.halves);
    const int i = static_cast<int>(g % groups);
    const float d = widen_half(record[r]);
    float minimum = f.halves == 2 ? widen_half(record[16 + r]) : 0.0f;
    if (f.halves == 2 && f.small > 0) minimum *= static_cast<float>(small[16 * (groups + i) + r]);
    const int64_t left = w.k - g * kGroup;
    for (int j = 0; j < kGroup && j < left; ++j) {
      float ws = d;
      if (w.format == Format::q6_k) {
        ws *= static_cast<float>(static_cast<int8_t>(small[16 * (2 * i + j / 16) + r]));
      } else if (f.small > 0) {
        ws *= static_cast<float>(small[16 * i + r]);
      }
      int code = cell_code(cells, cell, r, j) - offset;
      if (cells == Cells::looked_up) code = kLookedUp[code];
      float weight = ws * static_cast<float>(code);
      if (f.halves == 2) weight -= minimum;
      out[g * kGroup + j] = weight * scale;
    }
  }
}

static inline float half_at(const uint8_t* bytes) {
  uint16_t half;
  __builtin_memcpy(&half, bytes, sizeof half);
  return widen_half(half);
}

// Scale and minimum of group g, 6 bits each: those of groups 4 to 7 have their high bits above the first
// four's.
static inline void small_scales(const uint8_t* packed, int g, int* scale, int* minimum) {
  if (g < 4) {
    *scale = packed[g] & 63;
    *minimum = packed[4 + g] & 63;
  } else {
    *scale = (packed[4 + g] & 15) | (packed[g - 4] >> 6) << 4;
    *minimum = packed[4 + g] >> 4 | (packed[g] >> 6) << 4;
  }
}

static inline void unpack_k(const uint8_t* block, bool five, float* out) {
  const float d = half_at(block), dmin = half_at(block + 2);
  const uint8_t *fifths = block + 16, *nibbles = block + (five ? 48 : 16);
  for (int g = 0; g < 8; ++g) {
    int scale, minimum;
    small_scales(block + 4, g, &scale, &minimum);
    const float ws = d * static_cast<float>(scale), wm = dmin * static_cast<float>(minimum);
    for (int j = 0; j < 32; ++j) {
      int code = nibbles[32 * (g / 2) + j] >> (4 * (g % 2)) & 15;
      if (five) code |= (fifths[j] >> g & 1) << 4;
      out[32 * g + j] = ws * static_cast<float>(code) - wm;
    }
  }
}

static inline void unpack_q6_k(const uint8_t* block, float* out) {
  const uint8_t *nibbles = block, *highs = block + 128, *scales = block + 192;
  const float d = half_at(block + 208);
  for (int i = 0; i < 256; ++i) {
    const int part = i / 32, j = i % 32;  // 128 columns share 64 bytes of nibbles and 32 of high bits
    const int low = nibbles[64 * (part / 4) + 32 * (part % 2) + j] >> (4 * (part % 4 / 2)) & 15;
    const int high = highs[32 * (part / 4) + j] >> (2 * (part % 4)) & 3;
    const float ws = d * static_cast<float>(static_cast<int8_t>(scales[i / 16]));
    out[i] = ws * static_cast<float>((low | high << 4) - 32);
  }
}

static inline void unpack_32(Format format, const uint8_t* block, float* out) {
  const bool minimum = format == Format::q5_1, five = format != Format::iq4_nl;
  const float d = half_at(block), m = minimum ? half_at(block + 2) : 0.0f;
  const uint8_t *fifths = block + (minimum ? 4 : 2), *nibbles = fifths + (five ? 4 : 0);
  for (int j = 0; j < 32; ++j) {
    int code = nibbles[j % 16] >> (j < 16 ? 0 : 4) & 15;
    if (five) code |= (fifths[j / 8] >> (j % 8) & 1) << 4;
    if (format == Format::q5_0) code -= 16;
    if (!five) code = kLookedUp[code];
    out[j] = d * static_cast<float>(code);
    if (minimum) out[j] += m;
  }
}

// Columns of a row of a table of blocks.
static inline void lookup_blocks(const RowTable& table, int64_t row, int64_t column, int64_t width,
                                 float scale, float* out) {
  const FormatInfo& f = info(table.format);
  const uint8_t* data = static_cast<const uint8_t*>(table.data) + row * table.stride;
  const int64_t stop = column + width;
  for (int64_t i = column; i < stop;) {
    float block[256];
    const uint8_t* from = data + i / f.block * f.stored;
    if (table.format == Format::q6_k) {
      unpack_q6_k(from, block);
    } else if (f.block == 256) {
      unpack_k(from, table.format == Format::q5_k, block);
    } else {
      unpack_32(table.format, from, block);
    }
    const int64_t next = (i / f.block + 1) * f.block, end = next < stop ? next : stop;
    for (; i < end; ++i) *out++ = block[i % f.block] * scale;
  }
}
