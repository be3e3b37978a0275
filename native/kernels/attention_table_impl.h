// The entries of the kernel table that have to do with attention. Included by kernels_impl.h.

static void attention(const AttentionTask& t) {
  const AttentionScratch s = attention_arrays(t);
  for (int i = 0; i < t.count * t.heads; ++i) clear_record(s.record[i], t.head_dim);
  if (t.slot.key_scales == nullptr) {
    attend_half(t, s);
  } else {
    attend_int8(t, s);
  }
}

static void join_records(const float* later, float* all, int head_dim) {
  const F later_top = load(sum_of(later, head_dim) + 16);
  float* sum = sum_of(all, head_dim);
  const F top = load(sum + 16), higher = max(later_top, top);
  if (reduce_max(later_top) == -__builtin_inff()) return;  // saw no key
  const F keep = weight16(sub(top, higher)), take = weight16(sub(later_top, higher));
  for (int64_t i = 0; i < value_width(head_dim) + 16; i += 16) {
    store(all + i, fma(load(later + i), take, mul(load(all + i), keep)));
  }
  store(sum + 16, higher);
}

static void finish_record(const float* record, float* out, int head_dim, bool turned) {
  const float total = reduce_add(load(sum_of(record, head_dim)));
  const F divisor = set1(total > 0.0f ? total : 1.0f);  // no keys: zeros
  // Adding zero makes -0 of +0: which of the two a sum of products has may depend on keys that weigh nothing.
  each16(head_dim, [&](int64_t d, int lanes) {
    store(out + d, add(div(load(record + d), divisor), set1(0.0f)), lanes);
  });
  if (!turned) return;
  hadamard(out, head_dim);
  const F part = set1(1.0f / static_cast<float>(hadamard_block(head_dim)));
  each16(head_dim, [&](int64_t d, int lanes) { store(out + d, mul(load(out + d, lanes), part), lanes); });
}

static void store_kv(const float* key, const float* value, const KvSlot& slot, int64_t kv_head, int64_t row,
                     int head_dim) {
  if (slot.key_scales == nullptr) {
    store_half_kv(key, value, slot, kv_head, row, head_dim);
  } else {
    store_int8_kv(key, value, slot, kv_head, row, head_dim);
  }
}
