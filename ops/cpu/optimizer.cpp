#include <algorithm>

#include "ops/cpu/isa/kernel_table.h"
#include "ops/cpu/kernels.h"

namespace hetmem::ops::cpu {
namespace {

constexpr int64_t kBlock = 256 * kMomentBlock;  // elements of a task

// Calls step(weights in fp32, first element, count) for elements [begin, end): on the weight itself
// or, of a split master, on a few of its values at a time, put together and taken apart in cache.
template <typename Step>
void on_masters(const TensorView& weight, const TensorView& low, int64_t begin, int64_t end,
                const Step& step) {
  if (!low) return step(weight.as<float>() + begin, begin, end - begin);
  constexpr int64_t kAtOnce = 1024;
  float masters[kAtOnce];
  for (int64_t at = begin; at < end; at += kAtOnce) {
    const int64_t count = std::min(kAtOnce, end - at);
    auto* hi = weight.as<uint16_t>() + at;
    auto* lo = low.as<int16_t>() + at;
    kernel_table().join_masters(hi, lo, masters, count);
    step(masters, at, count);
    kernel_table().split_masters(masters, hi, lo, count);
  }
}

// The same for all elements, shared among the threads.
template <typename Step>
void for_each_weight(ThreadPool& pool, const TensorView& weight, const TensorView& low,
                     const Step& step) {
  pool.parallel_blocks(weight.elements(), kBlock, [&](int64_t begin, int64_t end) {
    on_masters(weight, low, begin, end, step);
  });
}

}  // namespace

void adamw_step(ThreadPool& pool, const AdamWStep& step, const TensorView& weight,
                const TensorView& gradient, const TensorView& m, const TensorView& v,
                const TensorView& low) {
  const AdamWScalars scalars = scalars_of(step);
  const auto* g = gradient.as<float>();
  auto* moment1 = m.as<float>();
  auto* moment2 = v.as<float>();
  for_each_weight(pool, weight, low, [&](float* w, int64_t at, int64_t count) {
    kernel_table().adamw(scalars, w, g + at, moment1 + at, moment2 + at, count);
  });
}

namespace {

// A block at the end of a tensor, of fewer elements: decoded, stepped and encoded as if what is
// beyond were zero.
void step_part(const AdamWScalars& scalars, const CodedMoments& coded_m,
               const CodedMoments& coded_v, int64_t at, float* w, const float* g, int64_t count) {
  const KernelTable& kernels = kernel_table();
  const auto decode = [&](const CodedMoments& coded, float* x) {
    kernels.decode_moments(coded.code, coded.codes(at), coded.scale(at), x);
    std::fill(x + count, x + kMomentBlock, 0.0F);
  };
  const auto encode = [&](const CodedMoments& coded, const float* x) {
    coded.scale(at) = kernels.encode_moments(coded.code, x, coded.codes(at));
  };
  float m[kMomentBlock];
  float v[kMomentBlock];
  float bounded[kMomentBlock];
  decode(coded_m, m);
  decode(coded_v, v);
  for (int64_t i = 0; i < count; ++i) {
    bounded[i] =
        std::clamp(g[i] * scalars.gradient_scale, -kLargestMomentGradient, kLargestMomentGradient);
  }
  AdamWScalars of_bounded = scalars;
  of_bounded.gradient_scale = 1;
  kernels.adamw(of_bounded, w, bounded, m, v, count);
  encode(coded_m, m);
  encode(coded_v, v);
}

}  // namespace

void adamw_8bit_step(ThreadPool& pool, const AdamWStep& step, const TensorView& weight,
                     const TensorView& gradient, const TensorView& m, const TensorView& v,
                     const TensorView& low) {
  const AdamWScalars scalars = scalars_of(without_second_correction(step));
  const auto* g = gradient.as<float>();
  const CodedMoments first{first_moment_code(), m.as<uint8_t>()};
  const CodedMoments second{second_moment_code(), v.as<uint8_t>()};
  const int64_t count = weight.elements();
  const int64_t part = count % kMomentBlock;
  const int64_t whole = count - part;
  pool.parallel_blocks(whole, kBlock, [&](int64_t begin, int64_t end) {
    const CodedMoments m_here{first.code, first.codes(begin)};
    const CodedMoments v_here{second.code, second.codes(begin)};
    if (low) {
      kernel_table().adamw_8bit_split(scalars, m_here, v_here, weight.as<uint16_t>() + begin,
                                      low.as<int16_t>() + begin, g + begin, end - begin);
    } else {
      kernel_table().adamw_8bit(scalars, m_here, v_here, weight.as<float>() + begin, g + begin,
                                end - begin);
    }
  });
  if (part == 0) return;
  on_masters(weight, low, whole, count, [&](float* w, int64_t /*at*/, int64_t /*count*/) {
    step_part(scalars, first, second, whole, w, g + whole, part);
  });
}

void sgd_step(ThreadPool& pool, const SgdStep& step, const TensorView& weight,
              const TensorView& gradient, const TensorView& momentum, const TensorView& low) {
  const auto* g = gradient.as<float>();
  auto* buffer = momentum.as<float>();
  for_each_weight(pool, weight, low, [&](float* w, int64_t at, int64_t count) {
    kernel_table().sgd(step, w, g + at, buffer + at, count);
  });
}

void sum_of_squares(ThreadPool& pool, const TensorView& values, const TensorView& sum,
                    bool accumulate) {
  const auto* x = values.as<float>();
  const int64_t count = values.elements();
  const int64_t blocks = (count + kSumBlock - 1) / kSumBlock;
  // Blocks are taken a fixed number at a time, so that their sums need no memory of the heap.
  constexpr int64_t kAtOnce = 256;
  double parts[kAtOnce];
  double total = accumulate ? *sum.as<double>() : 0.0;
  for (int64_t first = 0; first < blocks; first += kAtOnce) {
    const int64_t now = std::min(kAtOnce, blocks - first);
    pool.parallel_for(now, [&](int64_t i) {
      const int64_t begin = (first + i) * kSumBlock;
      parts[i] = kernel_table().sum_of_squares(x + begin, std::min(kSumBlock, count - begin));
    });
    for (int64_t i = 0; i < now; ++i) total += parts[i];
  }
  *sum.as<double>() = total;
}

}  // namespace hetmem::ops::cpu
