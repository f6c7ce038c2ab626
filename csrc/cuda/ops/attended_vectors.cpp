// torch.ops.itm_fast.attended_vectors_, attended_gradients and attended_words_: what attended_similarity launches on
// CUDA for 16-bit inputs. Contract: itm_fast/ops/batched/attended_vectors.py.
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
AttendedContexts contexts_of(Launch& launch, const Tensor& weights, const Tensor& regions, const Tensor& words,
                             const std::optional<Tensor>& images, const std::optional<Tensor>& numbers,
                             const std::optional<Tensor>& vectors) {
  STD_TORCH_CHECK(
      weights.dim() == 3 && regions.dim() == 3 && words.dim() == 2,
      "weights (n_lists, length, pitch), regions (n_images, dim, pitch) and words (n_words, dim) got shapes ",
      shape_of(weights), ", ", shape_of(regions), " and ", shape_of(words));
  const int64_t n_lists = weights.size(0), length = weights.size(1), pitch = weights.size(2), dim = words.size(1);
  const int64_t n_images = regions.size(0), n_words = words.size(0);
  const ScalarType type = words.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::BFloat16 || type == ScalarType::Half, "vectors must be bfloat16 or float16");
  check_shape("weights", weights, {n_lists, length, pitch}, type);
  check_shape("regions", regions, {n_images, dim, pitch}, type);
  check_shape("words", words, {n_words, dim}, type);
  const bool given = images.has_value();
  STD_TORCH_CHECK(numbers.has_value() == given && vectors.has_value() == given,
                  "images, numbers and vectors are given together");
  if (given) {
    check_shape("images", *images, {n_lists}, ScalarType::Long);
    check_shape("numbers", *numbers, {n_lists, length}, ScalarType::Long);
    check_shape("vectors", *vectors, {n_lists, length}, ScalarType::Long);
  } else {
    STD_TORCH_CHECK(n_lists == n_images && length == n_words, "weights are those of ", n_lists, " images and ", length,
                    " words, there are ", n_images, " and ", n_words);
  }
  STD_TORCH_CHECK(pitch % 16 == 0 && pitch <= kAttendedRegions && dim % kMultiple == 0,
                  "at most 64 regions, padded to a multiple of 16, and a dim that is a multiple of 8 are taken, got ",
                  pitch, " and ", dim);
  const int64_t tiles = n_lists * (length / 64 + 1) * (dim / 256 + 1);
  STD_TORCH_CHECK(tiles <= std::numeric_limits<int32_t>::max(), "too many pairs for one call");
  return {launch.in<void>(weights),
          launch.in<void>(regions),
          launch.in<void>(words),
          launch.in<int64_t>(images),
          launch.in<int64_t>(numbers),
          launch.in<int64_t>(vectors),
          int32_t(n_lists),
          int32_t(length),
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

// Vectors there are: with lists, any number.
int64_t vectors_of(const AttendedContexts& of, const Tensor& lengths) {
  const int64_t all = int64_t(of.n_lists) * of.length, n = lengths.numel();
  STD_TORCH_CHECK(of.vectors != nullptr || n == all, "lengths must be those of ", all, " vectors, got ", n);
  return n;
}

void vectors(const Tensor& weights, const Tensor& regions, const Tensor& words, const Tensor& weight,
             const Tensor& bias, Tensor units, Tensor lengths, const std::optional<Tensor>& images,
             const std::optional<Tensor>& numbers, const std::optional<Tensor>& places) {
  const ScalarType type = words.scalar_type();
  Launch launch("attended_vectors_", words);
  const AttendedContexts of = contexts_of(launch, weights, regions, words, images, numbers, places);
  const int32_t width = width_of(weight.size(0));
  const int64_t n = vectors_of(of, lengths);
  check_shape("weight", weight, {width, of.dim}, type);
  check_shape("bias", bias, {width}, type);
  check_shape("units", units, {n, width}, type);
  check_shape("lengths", lengths, {n}, ScalarType::Float);
  if (weights.numel() == 0) return;
  void* to = of.vectors == nullptr ? launch.out<void>(units) : launch.inout<void>(units);
  float* of_lengths = of.vectors == nullptr ? launch.out<float>(lengths) : launch.inout<float>(lengths);
  attended_vectors({of, launch.in<void>(weight), launch.in<void>(bias), to, of_lengths, width}, number_of(type),
                   launch.stream());
  launch.check();
}

std::tuple<Tensor, Tensor, Tensor> gradients(const Tensor& grad, const Tensor& units, const Tensor& lengths,
                                             const Tensor& weights, const Tensor& regions, const Tensor& words,
                                             const Tensor& weight, const std::optional<Tensor>& images,
                                             const std::optional<Tensor>& numbers,
                                             const std::optional<Tensor>& places) {
  const ScalarType type = words.scalar_type();
  Launch launch("attended_gradients", words);
  const AttendedContexts of = contexts_of(launch, weights, regions, words, images, numbers, places);
  const int32_t width = width_of(weight.size(1));
  const int64_t n = vectors_of(of, lengths);
  check_shape("weight", weight, {of.dim, width}, type);
  const std::vector<int64_t> of_differences{of.n_lists, of.length, of.dim};
  check_shape("grad", grad, {n, width}, type);
  check_shape("units", units, {n, width}, type);
  check_shape("lengths", lengths, {n}, ScalarType::Float);
  const Tensor rows = empty(words, {of.n_lists, of.length, width}, type),
               differences = empty(words, of_differences, type), squares = empty(words, of_differences, type);
  if (weights.numel() == 0) return {rows, differences, squares};
  attended_rows({launch.in<void>(grad), launch.in<void>(units), launch.in<float>(lengths), of.vectors,
                 launch.out<void>(rows), int64_t(of.n_lists) * of.length, width},
                number_of(type), launch.stream());
  launch.check();
  attended_gradients({of, launch.inout<void>(rows), launch.in<void>(weight), launch.out<void>(differences),
                      launch.out<void>(squares), width},
                     number_of(type), launch.stream());
  launch.check();
  return {rows, differences, squares};
}

void words(Tensor sums, const Tensor& differences, const Tensor& vectors, const Tensor& bounds) {
  const ScalarType type = differences.scalar_type();
  Launch launch("attended_words_", differences);
  STD_TORCH_CHECK(sums.dim() == 2 && differences.dim() == 2,
                  "sums (n_words, dim) and differences (n_vectors, dim) got ", shape_of(sums), " and ",
                  shape_of(differences));
  const int64_t n_words = sums.size(0), dim = sums.size(1);
  STD_TORCH_CHECK((type == ScalarType::BFloat16 || type == ScalarType::Half) && dim % kMultiple == 0,
                  "bfloat16 or float16 and a dim that is a multiple of 8 are taken, got ", dim);
  check_shape("sums", sums, {n_words, dim}, ScalarType::Float);
  check_shape("differences", differences, {differences.size(0), dim}, type);
  check_shape("vectors", vectors, {vectors.numel()}, ScalarType::Long);
  check_shape("bounds", bounds, {n_words + 1}, ScalarType::Long);
  STD_TORCH_CHECK(n_words * (dim / 256 + 1) <= std::numeric_limits<int32_t>::max(), "too many words for one call");
  if (sums.numel() == 0 || vectors.numel() == 0) return;
  attended_words({launch.in<void>(differences), launch.in<int64_t>(vectors), launch.in<int64_t>(bounds),
                  launch.inout<float>(sums), n_words, int32_t(dim)},
                 number_of(type), launch.stream());
  launch.check();
}

}  // namespace

ITM_CUDA_OPERATORS(m) {
  m.impl("attended_vectors_", TORCH_BOX(&vectors));
  m.impl("attended_gradients", TORCH_BOX(&gradients));
  m.impl("attended_words_", TORCH_BOX(&words));
}

}  // namespace itm::cuda
