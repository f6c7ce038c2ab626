// Arguments of the kernels of SGR's and SAF's similarity vectors; the launchers know no torch.
//
// y = weight (u - word)^2 + bias of every image and word, u the attended context at unit length: a sum of the image's
// regions, whose weights are given. Tensors are contiguous, in one 16-bit type, 16-byte aligned.
#pragma once

#include <cstdint>

#include "number.h"

namespace itm::cuda {

constexpr int kAttendedRegions = 64, kAttendedWidth = 256;  // at most

struct AttendedContexts {
  const void* weights;  // (n_images, n_words, pitch): of the regions in the context; 0 beyond the regions
  const void* regions;  // (n_images, dim, pitch): transposed; 0 beyond the regions
  const void* words;    // (n_words, dim)
  int32_t n_images, n_words, dim, pitch;  // dim: a multiple of 8; pitch: of 16
};

struct AttendedVectorsArgs {
  AttendedContexts of;
  const void* weight;  // (width, dim)
  const void* bias;    // (width,)
  void* units;         // (n_images, n_words, width): y / (|y| + epsilon)
  float* lengths;      // (n_images, n_words): |y|
  int32_t width;       // a multiple of 8
};
void attended_vectors(const AttendedVectorsArgs& args, Number number, void* stream);

// The gradient of y from that of y / (|y| + epsilon); 0 where y is 0.
struct AttendedRowsArgs {
  const void *grad, *units;  // (n_vectors, width)
  const float* lengths;      // (n_vectors,)
  void* rows;                // (n_vectors, width)
  int64_t n_vectors;
  int32_t width;
};
void attended_rows(const AttendedRowsArgs& args, Number number, void* stream);

// What the gradients of context, words and weight are products and sums of.
struct AttendedGradientsArgs {
  AttendedContexts of;
  const void* rows;    // (n_images, n_words, width): the gradient of y
  const void* weight;  // (dim, width): transposed
  void* differences;   // (n_images, n_words, dim): the gradient of u - word
  void* squares;       // (n_images, n_words, dim): (u - word)^2
  int32_t width;
};
void attended_gradients(const AttendedGradientsArgs& args, Number number, void* stream);

}  // namespace itm::cuda
