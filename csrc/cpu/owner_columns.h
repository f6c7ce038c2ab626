// One group's vectors as the columns of products, for rows that lie anywhere.
#pragma once

#include <vector>

#include "batch.h"
#include "engine.h"
#include "gemm.h"
#include "turn_block.h"

namespace itm {

template <class In, class T>
class OwnerColumns {
 public:
  OwnerColumns(int64_t most, int64_t dim)
      : gemm(Gemm<T, T>::own()),
        dim(dim),
        run(gemm.run(dim)),
        panels(round_up(most, kColumnMultiple) * dim),
        zero(dim, In(0)) {}

  // norm [n padded to a register] receives the vectors' lengths when given.
  void take(const Batch& batch, int64_t group, T* norm) {
    n = batch.count(group);
    const int64_t lanes = gemm.lanes(), whole = n / lanes * lanes;
    padded = round_up(n, lanes);
    const int64_t part = n % kPanelColumns > lanes && whole < n ? gemm.part_of_register(n - whole) : lanes;
    width = part < lanes ? whole + part : padded;
    from.clear();
    for (int64_t i = 0; i < n; i++) from.push_back(batch.vector<In>(group, i));
    from.resize(width, zero.data());
    while (int64_t(from.size()) < padded) from.push_back(from[from.size() - part]);
    pack_vectors<T, In>(from.data(), padded, dim, dim, kPanelColumns, panels.data());
    for (int64_t i = 0; i < padded && norm != nullptr; i++)
      norm[i] = i < n ? std::sqrt(squared_length<T>(from[i], dim)) : T(0);
  }

  // Columns of a product: as many as there are vectors, and what fills a register or a part of one, which are zero.
  int64_t n_columns() const { return width; }

  // out [m, stride] = rows . columns, n_columns() or the first of them, which are whole registers then; rows
  // beyond m are read soon.
  void multiply(int64_t m, int64_t columns, std::vector<const T*>& list, T* out, int64_t stride) const {
    list.resize(std::max<int64_t>(list.size(), m + kListedRows), list.back());
    multiply(m, columns, list.data(), out, stride);
  }

  // gram [n, n padded to 4] of the columns; list: the same vectors. Up to the diagonal, then mirrored.
  void gram(std::vector<const T*>& list, T* gram) {
    const int64_t stride = round_up(n, 4);
    constexpr int64_t kRows = kListedRows / 2;
    product.resize(kRows * padded);
    list.resize(n + kListedRows, list.back());
    for (int64_t i = 0; i < n; i += kRows) {
      const int64_t m = std::min(kRows, n - i);
      multiply(m, std::min(round_up(i + m, gemm.lanes()), width), list.data() + i, product.data(), padded);
      for (int64_t r = 0; r < m; r++) std::copy_n(product.data() + r * padded, i + m, gram + (i + r) * stride);
      ITM_PICK(turn_block<T>)(m, i, gram + i * stride, stride, gram + i, stride);
    }
  }

 private:
  static constexpr int64_t kSliceBytes = 256 << 10;  // half of a small second cache

  // rows [m + kListedRows]
  void multiply(int64_t m, int64_t columns, const T* const* rows, T* out, int64_t stride) const {
    // As much of the columns as the second cache holds stays there while all rows go by, block by block, each with all
    // its numbers: rows of a power of two in length would drive each other out of the cache, a run of theirs at a time.
    const int64_t slice = std::max<int64_t>(kSliceBytes / (padded * run * int64_t(sizeof(T))), 1) * run;
    for (int64_t first = 0; first < dim; first += slice)
      for (int64_t i = 0, last = std::min(dim, first + slice); i < m; i += kListedRows)
        for (int64_t p = first; p < last; p += run)
          for (int64_t j = 0; j < columns; j += kPanelColumns) {
            const int64_t panel = std::min(kPanelColumns, padded - j);
            gemm.of_list(std::min(kListedRows, m - i), std::min(kPanelColumns, columns - j), std::min(run, dim - p),
                         rows + i, p, Ahead<T>{rows + i + kListedRows, p}, panels + j * dim + p * panel, panel,
                         out + i * stride + j, stride, p > 0);
          }
  }

  const Gemm<T, T> gemm;
  const int64_t dim, run;
  int64_t n = 0, padded = 0, width = 0;
  Buffer<T> panels;  // [dim, 64], ..., the last one narrower
  const std::vector<In> zero;
  std::vector<const In*> from;
  std::vector<T> product;
};

}  // namespace itm
