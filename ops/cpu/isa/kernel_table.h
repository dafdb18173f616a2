// The inner loops of the CPU kernels as function pointers, one table an instruction set. Rows and
// ranges are contiguous fp32 unless a stride is given. Sums run over 16 fixed lanes, so a table's
// results depend on its instruction set through fused multiply-adds of matrix products alone.
#pragma once

#include <cstdint>

#include "ops/moment_code.h"
#include "ops/optimizer_step.h"

namespace hetmem::ops::cpu {

struct NormRow {
  float mean;
  float rstd;
};

struct AttentionTile {
  int64_t time;      // T
  int64_t head_dim;  // D
  float scale;
  float dropout;
  uint64_t random_key;
  uint32_t dropout_site;
  int64_t draw_base;  // (b * H + h) * T * T: index of the first draw of this head
  int64_t past;       // keys before the first query: query i sees keys [0, past + i]
};

constexpr int64_t kDecodeHeads = 4;

// The code of one kind of moments, and their records. Always inlined: a copy that the linker keeps
// could be of an instruction set that is not there.
struct CodedMoments {
  // Of the block that an element begins.
  [[gnu::always_inline]] uint8_t* codes(int64_t element) const {
    return records + element / kMomentBlock * kMomentRecordBytes;
  }
  [[gnu::always_inline]] float& scale(int64_t element) const {
    return *reinterpret_cast<float*>(codes(element) + kMomentBlock);
  }
  const MomentCode& code;
  uint8_t* records;
};

struct KernelTable {
  // norms
  NormRow (*layer_norm_row)(const float* x, const float* w, const float* b, float eps, float* y,
                            int64_t n);
  float (*rms_norm_row)(const float* x, const float* w, float eps, float* y, int64_t n);
  // dx (+ addend); dw and db gain this row's part
  void (*layer_norm_backward_row)(const float* dy, const float* x, const float* w, NormRow stats,
                                  const float* addend, float* dx, float* dw, float* db, int64_t n);
  void (*rms_norm_backward_row)(const float* dy, const float* x, const float* w, float rstd,
                                const float* addend, float* dx, float* dw, int64_t n);
  // element-wise
  void (*rope_row)(const float* x, const float* table, bool inverse, float* y, int64_t heads,
                   int64_t head_dim);
  void (*gelu)(const float* x, float* y, int64_t n, bool tanh_form);
  void (*gelu_backward)(const float* dy, const float* x, float* dx, int64_t n, bool tanh_form);
  void (*swiglu)(const float* gate, const float* up, float* y, int64_t n);
  void (*swiglu_backward)(const float* dy, const float* gate, const float* up, float* dgate,
                          float* dup, int64_t n);
  void (*add)(const float* a, const float* b, float* y, int64_t n);
  void (*add_bias)(const float* bias, float* y, int64_t n);
  // to the nearest bf16, ties to even; a NaN stays one
  void (*to_bf16)(const float* x, uint16_t* y, int64_t n);
  void (*round_to_bf16)(const float* x, float* y, int64_t n);  // the same, kept as fp32
  void (*from_bf16)(const uint16_t* x, float* y, int64_t n);
  void (*add_bf16)(const uint16_t* x, float* y, int64_t n);
  // head: turns logits into (softmax - onehot) * scale in place; returns the loss
  double (*cross_entropy_row)(float* logits, int64_t n, int64_t label, float scale, bool gradient);
  // products of a matrix and one vector: y[i] = w[i, :] . x + beta y[i] for rows i of w, and
  // y[j] = sum over i of x[i] w[i, j] + beta y[j] for columns j
  void (*gemv_rows)(const float* w, int64_t stride, int64_t rows, const float* x, int64_t n,
                    float beta, float* y);
  void (*gemv_columns)(const float* w, int64_t stride, int64_t columns, const float* x, int64_t n,
                       float beta, float* y);
  // optimizer
  void (*adamw)(const AdamWScalars& s, float* w, const float* g, float* m, float* v, int64_t n);
  void (*sgd)(const SgdStep& step, float* w, const float* g, float* buffer, int64_t n);
  void (*join_masters)(const uint16_t* hi, const int16_t* lo, float* w, int64_t n);
  void (*split_masters)(const float* w, uint16_t* hi, int16_t* lo, int64_t n);
  // a block of kMomentBlock moments from codes, and back: returns its scale
  void (*decode_moments)(const MomentCode& code, const uint8_t* codes, float scale, float* x);
  float (*encode_moments)(const MomentCode& code, const float* x, uint8_t* codes);
  // a step on such moments, where the second correction is 1; n is a multiple of kMomentBlock
  void (*adamw_8bit)(const AdamWScalars& s, const CodedMoments& m, const CodedMoments& v, float* w,
                     const float* g, int64_t n);
  void (*adamw_8bit_split)(const AdamWScalars& s, const CodedMoments& m, const CodedMoments& v,
                           uint16_t* hi, int16_t* lo, const float* g, int64_t n);
  double (*sum_of_squares)(const float* x, int64_t n);
  // attention, one head: rows [begin, end) of queries; strides in elements between time steps
  void (*attention_forward)(const AttentionTile& tile, int64_t begin, int64_t end, const float* q,
                            int64_t q_stride, const float* k, const float* v, int64_t kv_stride,
                            float* o, int64_t o_stride, float* lse);
  // one query of up to kDecodeHeads heads that share keys and values, which are read once
  void (*attention_decode)(const AttentionTile& tile, int64_t heads, const float* q, const float* k,
                           const float* v, int64_t kv_stride, float* o);
  // adds to dq, dk and dv, which the caller has cleared
  void (*attention_backward)(const AttentionTile& tile, const float* q, int64_t q_stride,
                             const float* k, const float* v, int64_t kv_stride, const float* o,
                             const float* dout, int64_t o_stride, const float* lse, float* dq,
                             int64_t dq_stride, float* dk, float* dv, int64_t dkv_stride);
};

// Of this processor.
const KernelTable& kernel_table();

}  // namespace hetmem::ops::cpu
