// Arguments of the kernels of SGR's and SAF's similarity vectors; the launchers know no torch.
//
// y = weight (u - word)^2 + bias of words of an image, u the attended context at unit length: a sum of the image's
// regions, whose weights are given. Words are in lists, each of one image. Tensors are contiguous, in one 16-bit type,
// 16-byte aligned.
#pragma once

#include <cstdint>

#include "number.h"

namespace itm::cuda {

constexpr int kAttendedRegions = 64, kAttendedWidth = 256;  // at most

struct AttendedContexts {
  const void* weights;     // (n_lists, length, pitch): of the regions in the context; 0 beyond the regions
  const void* regions;     // (n_images, dim, pitch): transposed; 0 beyond the regions
  const void* words;       // (n_words, dim)
  const int64_t* images;   // (n_lists,); null: as many lists as images, each of all words
  const int64_t* numbers;  // (n_lists, length): words, -1: none, at the end of a list; null where images are
  const int64_t* vectors;  // (n_lists, length): where each has its y, -1 likewise; null where images are
  int32_t n_lists, length, n_images, n_words, dim, pitch;  // dim: a multiple of 8; pitch: of 16
};

struct AttendedVectorsArgs {
  AttendedContexts of;
  const void* weight;  // (width, dim)
  const void* bias;    // (width,)
  void* units;         // (n_vectors, width): y / (|y| + epsilon)
  float* lengths;      // (n_vectors,): |y|
  int32_t width;       // a multiple of 8
};
void attended_vectors(const AttendedVectorsArgs& args, Number number, void* stream);

// The gradient of y from that of y / (|y| + epsilon); 0 where y is 0, or none.
struct AttendedRowsArgs {
  const void *grad, *units;  // (n_vectors, width)
  const float* lengths;      // (n_vectors,)
  const int64_t* vectors;    // (n_rows,): as in AttendedContexts; null: in their order
  void* rows;                // (n_rows, width)
  int64_t n_rows;
  int32_t width;
};
void attended_rows(const AttendedRowsArgs& args, Number number, void* stream);

// What the gradients of context, words and weight are products and sums of.
struct AttendedGradientsArgs {
  AttendedContexts of;
  const void* rows;    // (n_lists, length, width): the gradient of y
  const void* weight;  // (dim, width): transposed
  void* differences;   // (n_lists, length, dim): the gradient of u - word
  void* squares;       // (n_lists, length, dim): (u - word)^2; 0 where there is no word
  int32_t width;
};
void attended_gradients(const AttendedGradientsArgs& args, Number number, void* stream);

// Subtracts from each word the differences' gradients of its vectors, in their order.
struct AttendedWordsArgs {
  const void* differences;  // (n_vectors, dim)
  const int64_t* vectors;   // (n_steps,): those of word w are vectors[bounds[w]] ... vectors[bounds[w + 1] - 1]
  const int64_t* bounds;    // (n_words + 1,)
  float* sums;              // (n_words, dim)
  int64_t n_words;
  int32_t dim;  // a multiple of 8
};
void attended_words(const AttendedWordsArgs& args, Number number, void* stream);

}  // namespace itm::cuda
