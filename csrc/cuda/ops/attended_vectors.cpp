// torch.ops.itm_fast.attended_vectors_ and attended_gradients: what attended_similarity launches on CUDA for 16-bit
// inputs. Contract: itm_fast/ops/batched/attended_vectors.py.
#include "../attended_vectors.h"

#include <limits>

#include "host.h"

namespace itm::cuda {
namespace {

constexpr int kMultiple = 8;  // numbers of 16 bytes

void check_shape(const char* name, const Tensor& given, const std::vector<int64_t>& shape, ScalarType type) {
  const auto sizes = given.sizes();
  STD_TORCH_CHECK(std::vector<int64_t>(sizes.begin(), sizes.end()) == shape && given.scalar_type() == type, name,
                  " has shape ", shape_of(given), " or a type that do not fit");
}

// What the kernels read beyond its end, or at a place that is not aligned, would be other memory.
AttendedContexts contexts_of(Launch& launch, const Tensor& weights, const Tensor& regions, const Tensor& words) {
  STD_TORCH_CHECK(weights.dim() == 3 && words.dim() == 2,
                  "weights (n_images, n_words, pitch) and words (n_words, dim) got shapes ", shape_of(weights), " and ",
                  shape_of(words));
  const int64_t n_images = weights.size(0), n_words = weights.size(1), pitch = weights.size(2), dim = words.size(1);
  const ScalarType type = words.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::BFloat16 || type == ScalarType::Half, "vectors must be bfloat16 or float16");
  check_shape("weights", weights, {n_images, n_words, pitch}, type);
  check_shape("regions", regions, {n_images, dim, pitch}, type);
  check_shape("words", words, {n_words, dim}, type);
  STD_TORCH_CHECK(pitch % 16 == 0 && pitch <= kAttendedRegions && dim % kMultiple == 0,
                  "at most 64 regions, padded to a multiple of 16, and a dim that is a multiple of 8 are taken, got ",
                  pitch, " and ", dim);
  const int64_t tiles = n_images * (n_words / 64 + 1) * (dim / 256 + 1);
  STD_TORCH_CHECK(tiles <= std::numeric_limits<int32_t>::max(), "too many pairs for one call");
  return {launch.in<void>(weights),
          launch.in<void>(regions),
          launch.in<void>(words),
          int32_t(n_images),
          int32_t(n_words),
          int32_t(dim),
          int32_t(pitch)};
}

int32_t width_of(int64_t width) {
  STD_TORCH_CHECK(width % kMultiple == 0 && width <= kAttendedWidth,
                  "a width of at most 256 that is a multiple of 8 is taken, got ", width);
  return int32_t(width);
}

void vectors(const Tensor& weights, const Tensor& regions, const Tensor& words, const Tensor& weight,
             const Tensor& bias, Tensor units, Tensor lengths) {
  const ScalarType type = words.scalar_type();
  Launch launch("attended_vectors_", words);
  const AttendedContexts of = contexts_of(launch, weights, regions, words);
  const int32_t width = width_of(weight.size(0));
  check_shape("weight", weight, {width, of.dim}, type);
  check_shape("bias", bias, {width}, type);
  check_shape("units", units, {of.n_images, of.n_words, width}, type);
  check_shape("lengths", lengths, {of.n_images, of.n_words}, ScalarType::Float);
  if (lengths.numel() == 0) return;
  attended_vectors(
      {of, launch.in<void>(weight), launch.in<void>(bias), launch.out<void>(units), launch.out<float>(lengths), width},
      number_of(type), launch.stream());
  launch.check();
}

std::tuple<Tensor, Tensor, Tensor> gradients(const Tensor& grad, const Tensor& units, const Tensor& lengths,
                                             const Tensor& weights, const Tensor& regions, const Tensor& words,
                                             const Tensor& weight) {
  const ScalarType type = words.scalar_type();
  Launch launch("attended_gradients", words);
  const AttendedContexts of = contexts_of(launch, weights, regions, words);
  const int32_t width = width_of(weight.size(1));
  check_shape("weight", weight, {of.dim, width}, type);
  const std::vector<int64_t> of_units{of.n_images, of.n_words, width}, of_differences{of.n_images, of.n_words, of.dim};
  check_shape("grad", grad, of_units, type);
  check_shape("units", units, of_units, type);
  check_shape("lengths", lengths, {of.n_images, of.n_words}, ScalarType::Float);
  const Tensor rows = empty(words, of_units, type), differences = empty(words, of_differences, type),
               squares = empty(words, of_differences, type);
  if (lengths.numel() == 0) return {rows, differences, squares};
  attended_rows({launch.in<void>(grad), launch.in<void>(units), launch.in<float>(lengths), launch.out<void>(rows),
                 lengths.numel(), width},
                number_of(type), launch.stream());
  launch.check();
  attended_gradients({of, launch.inout<void>(rows), launch.in<void>(weight), launch.out<void>(differences),
                      launch.out<void>(squares), width},
                     number_of(type), launch.stream());
  launch.check();
  return {rows, differences, squares};
}

}  // namespace

ITM_CUDA_OPERATORS(m) {
  m.impl("attended_vectors_", TORCH_BOX(&vectors));
  m.impl("attended_gradients", TORCH_BOX(&gradients));
}

}  // namespace itm::cuda
