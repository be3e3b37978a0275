// Operations on single rows. Included by kernels_impl.h.

static void embed(const Matrix& w, int64_t row, float scale, float* out) {
  if (info(w.format).row_scales()) return embed_codes(w, row, scale, out);
  if (info(w.format).stored > 0) return embed_blocks(w, row, scale, out);
  const int64_t t = row / 16, r = row % 16, cell = info(w.format).cell_bytes();
  if (w.format == Format::bf16) {
    const uint16_t* data = reinterpret_cast<const uint16_t*>(w.data + t * w.groups * cell) + r;
    for (int64_t k = 0; k < w.k; ++k) out[k] = widen_bf16(data[16 * k]) * scale;
    return;
  }
  const bool wide = w.format == Format::int8;
  const uint8_t* data = w.data + t * w.groups * cell + 4 * r;
  for (int64_t g = 0; g < w.groups; ++g) {
    const float ws = widen_half(w.scales[(t * w.groups + g) * 16 + r]);
    const int64_t left = w.k - g * kGroup;
    for (int64_t i = 0; i < kGroup && i < left; ++i) {
      int code;
      if (wide) {
        code = data[g * cell + i / 4 * 64 + i % 4] - 128;
      } else {
        const uint8_t pair = data[g * cell + i % 16 / 4 * 64 + i % 4];
        code = (i < 16 ? pair & 15 : pair >> 4) - 8;
      }
      out[g * kGroup + i] = static_cast<float>(code) * ws * scale;
    }
  }
}

static void lookup(const RowTable& table, int64_t row, int64_t column, int64_t width, float scale,
                   float* out) {
  if (info(table.format).row_scales()) return lookup_codes(table, row, column, width, scale, out);
  if (info(table.format).stored > 0) return lookup_blocks(table, row, column, width, scale, out);
  const int64_t stop = column + width;
  if (table.format == Format::bf16) {
    const uint16_t* data = static_cast<const uint16_t*>(table.data) + row * table.stride;
    for (int64_t i = column; i < stop; ++i) *out++ = widen_bf16(data[i]) * scale;
    return;
  }
  const int8_t* data = static_cast<const int8_t*>(table.data) + row * table.stride;
  const uint16_t* scales = table.scales + row * (table.stride / kGroup);
  for (int64_t i = column; i < stop;) {
    const float ws = widen_half(scales[i / kGroup]);
    const int64_t next = (i / kGroup + 1) * kGroup, end = next < stop ? next : stop;
    for (; i < end; ++i) *out++ = static_cast<float>(data[i]) * ws * scale;
  }
}

static void rms_norm(const float* x, float* out, const float* weight, int64_t width, int64_t groups,
                     float eps) {
  const int64_t n = width / groups;
  for (int64_t g = 0; g < groups; ++g, x += n, out += n) {
    F sum[4] = {set1(0.0f), set1(0.0f), set1(0.0f), set1(0.0f)};  // four chains hide the latency
    int64_t i = 0;
    for (; i + 64 <= n; i += 64) {
      for (int c = 0; c < 4; ++c) {
        const F v = load(x + i + 16 * c);
        sum[c] = fma(v, v, sum[c]);
      }
    }
    for (int c = 0; i < n; i += 16, ++c) {
      const F v = load(x + i, n - i < 16 ? static_cast<int>(n - i) : 16);
      sum[c] = fma(v, v, sum[c]);
    }
    const float total = reduce_add(add(add(sum[0], sum[1]), add(sum[2], sum[3])));
    const F mean = set1(total / static_cast<float>(n));
    const F inverse = div(set1(1.0f), sqrt(add(mean, set1(eps))));
    each16(n, [&](int64_t at, int lanes) {
      F v = mul(load(x + at, lanes), inverse);
      if (weight != nullptr) v = mul(v, load(weight + at, lanes));
      store(out + at, v, lanes);
    });
  }
}

static void add_scaled(const float* a, const float* b, float* out, int64_t n, float scale) {
  each16(n, [&](int64_t i, int lanes) {
    store(out + i, mul(add(load(a + i, lanes), load(b + i, lanes)), set1(scale)), lanes);
  });
}

static void gelu_mul(const float* gate, const float* up, float* out, int64_t n) {
  each16(n, [&](int64_t i, int lanes) {
    store(out + i, mul(gelu16(load(gate + i, lanes)), load(up + i, lanes)), lanes);
  });
}

static void rope(float* x, int64_t groups, int64_t dim, const float* cosine, const float* sine,
                 int64_t pairs) {
  for (int64_t g = 0; g < groups; ++g) {
    float* low = x + g * dim;
    float* high = low + dim / 2;
    each16(pairs, [&](int64_t i, int lanes) {
      const F c = load(cosine + i, lanes), s = load(sine + i, lanes);
      const F a = load(low + i, lanes), b = load(high + i, lanes);
      store(low + i, sub(mul(a, c), mul(b, s)), lanes);
      store(high + i, fma(b, c, mul(a, s)), lanes);
    });
  }
}

static void softcap(float* x, int64_t n, float cap) {
  each16(n, [&](int64_t i, int lanes) {
    store(x + i, mul(tanh16(div(load(x + i, lanes), set1(cap))), set1(cap)), lanes);
  });
}

static float row_max(const float* x, int64_t n) {
  F best = set1(x[0]);
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) best = max(best, load(x + i));
  float top = reduce_max(best);
  for (; i < n; ++i) top = x[i] > top ? x[i] : top;
  return top;
}

// sum of exp(x - top): lanes by index modulo 16, padded lanes excluded by -inf.
static float exp_sum(const float* x, int64_t n, float top) {
  F sum = set1(0.0f);
  each16(n, [&](int64_t i, int lanes) {
    float tail[16];
    const float* from = x + i;
    if (lanes < 16) {
      for (int j = 0; j < 16; ++j) tail[j] = j < lanes ? from[j] : -__builtin_inff();
      from = tail;
    }
    sum = add(sum, exp16(sub(load(from), set1(top))));
  });
  return reduce_add(sum);
}

static void softmax(const float* x, float* out, int64_t n) {
  const float top = row_max(x, n);
  const F sum = set1(exp_sum(x, n, top));
  each16(n, [&](int64_t i, int lanes) {
    store(out + i, div(exp16(sub(load(x + i, lanes), set1(top))), sum), lanes);
  });
}

static float softmax_at(const float* x, int64_t n, int64_t at) {
  const float top = row_max(x, n);
  float lane[16];
  store(lane, div(exp16(set1(x[at] - top)), set1(exp_sum(x, n, top))));
  return lane[0];
}

static void add_weighted(const float* x, float weight, float* out, int64_t n) {
  each16(n, [&](int64_t i, int lanes) {
    store(out + i, fma(set1(weight), load(x + i, lanes), load(out + i, lanes)), lanes);
  });
}
