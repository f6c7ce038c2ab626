// A batch of vector groups (images of regions, captions of words), padded or packed, its valid vectors numbered without
// padding, and the packing of their numbers into the operands of the tile products.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <vector>

#include "gemm.h"
#include "parallel.h"
#include "tile.h"
#include "turn_block.h"

namespace itm {

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

struct Batch {
  Tensor vectors;               // (n_groups, max, dim), or (total, dim) without padding; last dimension contiguous
  int64_t n_groups, max, dim;   // max: vectors of a padded group; packed: of all groups
  std::vector<int64_t> offset;  // [n_groups + 1]: group g owns valid vectors offset[g] ... offset[g + 1] - 1
  std::vector<int64_t> start;   // [n_groups]: number of `vectors` where group g starts
  bool dense;                   // (n_groups, max, dim), contiguous and no padding at all
  bool is_packed = false;       // (total, dim)

  // counts: int64 (n_groups,) or undefined = all valid. `what` ("words") and `unit` name the argument in errors.
  Batch(const Tensor& vectors, const std::optional<Tensor>& counts, const char* what);
  // vectors (total, dim): those of the first group, of the second, and so on.
  static Batch packed(const Tensor& vectors, const Tensor& counts, const char* what);
  // Whichever of the two the number of dimensions says.
  static Batch of(const Tensor& vectors, const std::optional<Tensor>& counts, const char* what);

  int64_t count(int64_t group) const { return offset[group + 1] - offset[group]; }
  int64_t total() const { return offset.back(); }
  // Rows of a contiguous tensor of the shape of `vectors` before those of a group.
  int64_t rows_before(int64_t group) const { return is_packed ? offset[group] : group * max; }

  template <class In>
  const In* vector(int64_t group, int64_t index) const {
    return static_cast<const In*>(data) + start[group] + index * stride;
  }
  int64_t vector_stride() const { return stride; }  // numbers from one vector of a group to the next

 private:
  const void* data;  // of `vectors`
  int64_t stride;

  Batch(int64_t n_groups, int64_t max, const Tensor& given);
  void count_vectors(const Tensor& counts, const char* what);
};

// A run of whole groups, and where its vectors lie in the packed operand.
struct Block {
  int64_t begin, end;  // groups
  int64_t vectors;     // valid vectors
  int64_t padded;      // vectors including padding
  int64_t start;       // first vector in the packed operand
};

// Cuts groups [begin, end) into blocks of at most `limit` vectors (at least one group each); every block is padded to
// `multiple` vectors.
std::vector<Block> cut_blocks(const Batch& batch, int64_t begin, int64_t end, int64_t limit, int64_t multiple);

// First group after `begin` such that groups [begin, result) hold at most `limit` vectors; at least one group.
int64_t take_groups(const Batch& batch, int64_t begin, int64_t limit);

template <class Op, class In>
inline Op number_as(In x) {
  if constexpr (std::is_same_v<Op, In>)
    return x;
  else
    return static_cast<Op>(static_cast<float>(x));
}

// Sixteen partial sums: the compiler can vectorise, and the error stays that of dim / 16 additions.
template <class T, class In>
T squared_length(const In* x, int64_t dim) {
  T partial[16] = {};
  int64_t d = 0;
  for (; d + 16 <= dim; d += 16)
    for (int64_t j = 0; j < 16; j++) partial[j] += number_as<T>(x[d + j]) * number_as<T>(x[d + j]);
  for (; d < dim; d++) partial[d % 16] += number_as<T>(x[d]) * number_as<T>(x[d]);
  return std::accumulate(partial, partial + 16, T(0));
}

// Rows of one product operand: [padded vectors of all blocks, k]; zero where there is no vector.
template <class Op, class In>
void pack_rows(const Batch& batch, const Block& block, int64_t k, Op* out) {
  Op* row = out + block.start * k;
  for (int64_t g = block.begin; g < block.end; g++)
    for (int64_t i = 0; i < batch.count(g); i++, row += k) {
      const In* from = batch.vector<In>(g, i);
      for (int64_t d = 0; d < batch.dim; d++) row[d] = number_as<Op>(from[d]);
      std::fill(row + batch.dim, row + k, Op(0));
    }
  std::memset(static_cast<void*>(row), 0, sizeof(Op) * (block.padded - block.vectors) * k);
}

// The same rows cut into panels of `panel` numbers, [total, panel] each, the last one narrower: the right operand of a
// sum over vectors.
template <class Op, class In>
void pack_row_panels(const Batch& batch, const Block& block, int64_t total, Op* out, int64_t panel = kPanelColumns) {
  for (int64_t first = 0; first < batch.dim; first += panel) {
    const int64_t columns = std::min(panel, batch.dim - first);
    Op* row = out + first * total + block.start * columns;
    for (int64_t g = block.begin; g < block.end; g++)
      for (int64_t i = 0; i < batch.count(g); i++, row += columns) {
        const In* from = batch.vector<In>(g, i) + first;
        for (int64_t d = 0; d < columns; d++) row[d] = number_as<Op>(from[d]);
      }
    std::fill(row, row + (block.padded - block.vectors) * columns, Op(0));
  }
}

// Transposed panels of `panel` vectors, at most kPanelColumns, [k, panel] each (bfloat16: [k / 2, panel, 2]); the last
// one is narrower.
template <class Op, class In>
void pack_vectors(const In* const* from, int64_t n_vectors, int64_t dim, int64_t k, int64_t panel, Op* out) {
  constexpr int64_t pair = std::is_same_v<Op, BFloat16> ? 2 : 1;
  for (int64_t first = 0; first < n_vectors; first += panel, from += panel) {
    const int64_t columns = std::min(panel, n_vectors - first);
    Op* to = out + first * k;
    if (dim < k) std::memset(static_cast<void*>(to), 0, sizeof(Op) * columns * k);
    if constexpr (std::is_same_v<Op, In>) {
      // Numbers (bfloat16: pairs of them) are moved as they are.
      using Unit = std::conditional_t<pair == 2, float, Op>;
      const int64_t units = dim / pair;
      ITM_PICK(turn_vectors<Unit>)(reinterpret_cast<const char* const*>(from), columns, units,
                                   reinterpret_cast<Unit*>(to), columns);
      for (int64_t d = units * pair; d < dim; d++)
        for (int64_t c = 0; c < columns; c++) to[(d / pair * columns + c) * pair] = from[c][d];
    } else {
      static_assert(pair == 1);
      // Converted a run at a time, then moved as they are.
      constexpr int64_t run = 64;
      Op converted[kPanelColumns * run];
      const char* vectors[kPanelColumns];
      for (int64_t c = 0; c < columns; c++) vectors[c] = reinterpret_cast<const char*>(converted + c * run);
      for (int64_t d0 = 0; d0 < dim; d0 += run) {
        const int64_t n = std::min(run, dim - d0);
        for (int64_t c = 0; c < columns; c++) {
          const In* numbers = from[c] + d0;
          for (int64_t d = 0; d < n; d++) converted[c * run + d] = number_as<Op>(numbers[d]);
        }
        ITM_PICK(turn_vectors<Op>)(vectors, columns, n, to + d0 * columns, columns);
      }
    }
  }
}

// A block's vectors as pack_vectors leaves them, zeros where it is padded. norm[v] receives |vector| when given.
template <class Op, class In, class T>
void pack_panels(const Batch& batch, const Block& block, int64_t k, Op* out, T* norm, int64_t panel = kPanelColumns) {
  const std::vector<In> zero(batch.dim, In(0));
  std::vector<const In*> from;
  from.reserve(block.padded);
  for (int64_t g = block.begin; g < block.end; g++)
    for (int64_t i = 0; i < batch.count(g); i++) from.push_back(batch.vector<In>(g, i));
  from.resize(block.padded, zero.data());
  pack_vectors<Op, In>(from.data(), block.padded, batch.dim, k, panel, out + block.start * k);
  if (norm == nullptr) return;
  for (int64_t v = 0; v < block.padded; v++)
    norm[block.start + v] = v < block.vectors ? std::sqrt(squared_length<T>(from[v], batch.dim)) : T(0);
}

}  // namespace itm
