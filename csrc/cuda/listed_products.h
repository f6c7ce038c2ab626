// Arguments of the matrix products of lists (listed_products.cu); the launcher knows no torch.
//
// Operands are batches of matrices, each of whose rows is 16-byte aligned and a multiple of 16 bytes. A product is that
// of the rows of two of them, which are found by their numbers where they lie; what has no such number counts as zeros.
#pragma once

#include "similarity.h"

namespace itm::cuda {

struct ListedSide {
  const void* data;        // (n, rows, dim)
  const int64_t* numbers;  // see ListedArgs; null: matrices are in their order
  int64_t n;
  int32_t rows;
};

// Without `bounds`: of a list's owner with its members. left.numbers: (n_lists,), owners; right.numbers: (n_lists,
// length), members. With `bounds`: the sum of the products of a list's steps. left.numbers, right.numbers: (n_steps,),
// of all lists' steps, one list after the other.
struct ListedArgs {
  ListedSide left, right;
  const int64_t* bounds;  // (n_lists + 1,): list l has the steps bounds[l] ... bounds[l + 1] - 1; or null
  const float* scale;     // that sums are divided by; or null
  float* out;  // (n_lists, left.rows, length, right.rows); with `bounds` (n_lists, left.rows, right.rows): added to
  int32_t n_lists, length, dim;  // dim: of the padded rows
};
void multiply_lists(const ListedArgs& args, Product product, void* stream);

// Blocks of a call: at most 2^31 - 1 are taken.
int64_t listed_blocks(const ListedArgs& args);

}  // namespace itm::cuda
