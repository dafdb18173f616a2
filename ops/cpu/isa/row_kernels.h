// The kernels of one instruction set, for its table alone.
#pragma once

#include "ops/cpu/isa/kernel_table.h"

namespace hetmem::ops::cpu::HETMEM_ISA {

void adamw(const AdamWScalars& scalars, float* w, const float* g, float* m, float* v, int64_t n);
void sgd(const SgdStep& of, float* w, const float* g, float* buffer, int64_t n);
void join_masters(const uint16_t* hi, const int16_t* lo, float* w, int64_t n);
void split_masters(const float* w, uint16_t* hi, int16_t* lo, int64_t n);
void decode_moments(const MomentCode& code, const uint8_t* codes, float scale, float* x);
float encode_moments(const MomentCode& code, const float* x, uint8_t* codes);
void adamw_8bit(const AdamWScalars& scalars, const CodedMoments& m, const CodedMoments& v, float* w,
                const float* g, int64_t n);
void adamw_8bit_split(const AdamWScalars& scalars, const CodedMoments& m, const CodedMoments& v,
                      uint16_t* hi, int16_t* lo, const float* g, int64_t n);
double sum_of_squares(const float* x, int64_t n);
void gemv_rows(const float* w, int64_t stride, int64_t rows, const float* x, int64_t n, float beta,
               float* y);
void gemv_columns(const float* w, int64_t stride, int64_t columns, const float* x, int64_t n,
                  float beta, float* y);
void attention_forward(const AttentionTile& tile, int64_t begin, int64_t end, const float* q,
                       int64_t q_stride, const float* k, const float* v, int64_t kv_stride,
                       float* o, int64_t o_stride, float* lse);
void attention_decode(const AttentionTile& tile, int64_t heads, const float* q, const float* k,
                      const float* v, int64_t kv_stride, float* o);
void attention_backward(const AttentionTile& tile, const float* q, int64_t q_stride, const float* k,
                        const float* v, int64_t kv_stride, const float* o, const float* dout,
                        int64_t o_stride, const float* lse, float* dq, int64_t dq_stride, float* dk,
                        float* dv, int64_t dkv_stride);

}  // namespace hetmem::ops::cpu::HETMEM_ISA
