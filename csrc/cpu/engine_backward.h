// The backward pass of the tile engine. S is made again tile by tile; dS of a bounded number of context rows is kept in
// both orders, and the two gradients are one sum of products each:
//   d context = dS . query + (dG + dG^T) . context        d query = dS^T . context + kappa query
// Sums run in a fixed order, whatever the number of threads.
#pragma once

#include "engine.h"

namespace itm {

// Gradient rows in the dtype and layout of the input; a row of the padding stays 0.
template <class In, class T>
void store_gradient(const Batch& batch, int64_t group, int64_t index, const T* from, bool zero, In* out) {
  In* row = out + (batch.rows_before(group) + index) * batch.dim;
  for (int64_t d = 0; d < batch.dim; d++) row[d] = zero ? In(0) : static_cast<In>(from[d]);
}

// dS of one row block against all columns, in both orders, with the block's dG and kappa.
template <class In, class T>
struct GradTiles {
  const Batch& context;
  const Similarity<T>& similarity;
  const Rows<In, T, T>& rows;
  const Columns<In, T, T>& columns;
  const T* grad_scores;
  T* grad_parameter;
  int64_t context_stride, query_stride;
  T *grad_sims, *grad_sims_transposed, *grad_gram,
      *kappa;  // [rows, n_columns], [n_columns, rows], as rows.gram, [blocks, n_columns]
  int64_t n_rows, n_columns;

  void compute(int64_t row_block, LeftOperand<T, T>& left, Buffer<T>& sims, Buffer<T>& grad, Buffer<T>& scratch) const {
    const Block& row = rows.blocks[row_block];
    left.take(rows.data + row.start * rows.k, row.padded);
    for (size_t b = 0; b < columns.blocks.size(); b++) {
      const Block& column = columns.blocks[b];
      Tile<T> tile{};
      tile.n_columns = column.vectors;
      tile.n_groups = column.end - column.begin;
      tile.first_group = column.begin;
      tile.columns = columns.starts[b].data();
      tile.stride = tile_stride(column.padded);
      tile.score_stride = query_stride;
      tile.grad_sims = grad.data();
      tile.scratch = scratch.data();
      if (similarity.needs_gram) {
        tile.query_norm = columns.norm + column.start;
        tile.grad_query = kappa + row_block * n_columns + column.start;
      }
      left.multiply(columns.panels.data(), column, sims.data(), tile.stride);
      const T* group_sims = sims.data();
      int64_t first_row = row.start;
      for (int64_t c = row.begin; c < row.end; c++) {
        tile.context = c;
        tile.n_context = context.count(c);
        tile.sims = group_sims;
        if (similarity.needs_gram) {
          tile.gram = rows.gram_of(c);
          tile.gram_stride = Rows<In, T, T>::gram_stride(context, c);
          tile.grad_gram = grad_gram + rows.gram_offset[c - rows.begin];
        }
        const int64_t pair = c * context_stride + column.begin * query_stride;
        tile.grad_scores = grad_scores + pair;
        tile.grad_parameter = grad_parameter != nullptr ? grad_parameter + pair : nullptr;
        similarity.backward(tile);
        keep(tile, first_row, column.start);
        group_sims += tile.n_context * tile.stride;
        first_row += tile.n_context;
      }
    }
  }

 private:
  void keep(const Tile<T>& tile, int64_t first_row, int64_t first_column) const {
    for (int64_t r = 0; r < tile.n_context; r++)
      std::copy_n(tile.grad_sims + r * tile.stride, tile.n_columns,
                  grad_sims + (first_row + r) * n_columns + first_column);
    constexpr int64_t side = 16;
    for (int64_t q0 = 0; q0 < tile.n_columns; q0 += side)
      for (int64_t r0 = 0; r0 < tile.n_context; r0 += side)
        for (int64_t q = q0; q < std::min(tile.n_columns, q0 + side); q++)
          for (int64_t r = r0; r < std::min(tile.n_context, r0 + side); r++)
            grad_sims_transposed[(first_column + q) * n_rows + first_row + r] = tile.grad_sims[r * tile.stride + q];
  }
};

// out [n, dim] += square [n, n] . the n rows from first_row on of panels of n_rows rows each. As many rows of the
// square as a tile has stay in the cache while all panels go by.
template <class T>
void add_square_of_panels(const Gemm<T, T>& gemm, int64_t n, int64_t dim, const T* square, int64_t stride,
                          const T* panels, int64_t n_rows, int64_t first_row, T* out) {
  for (int64_t top = 0; top < n; top += kRowLimit)
    for (int64_t d = 0, columns; d < dim; d += columns) {
      columns = std::min(gemm.panel(), dim - d);
      gemm(std::min(kRowLimit, n - top), columns, n, square + top * stride, stride,
           panels + d * n_rows + first_row * columns, columns, out + top * dim + d, dim, true);
    }
}

template <class In, class T>
void score_backward(const Batch& context, const Batch& query, const Similarity<T>& similarity, const T* grad_scores,
                    int64_t context_stride, int64_t query_stride, In* grad_context, In* grad_query, T* grad_parameter) {
  const Gemm<T, T> gemm;
  const int64_t dim = context.dim;
  const Columns<In, T, T> columns(query, 0, query.n_groups, column_limit(context), dim, similarity.needs_gram,
                                  gemm.panel());
  const int64_t n_columns = total_padded(columns.blocks), n_column_blocks = columns.blocks.size();
  Buffer<T> query_panels(grad_context != nullptr ? n_columns * dim : 0);
  if (grad_context != nullptr)
    parallel_items(n_column_blocks, double(n_columns) * dim * kMoveWork, [&](int64_t b) {
      pack_row_panels<T, In>(query, columns.blocks[b], n_columns, query_panels.data(), gemm.panel());
    });
  Buffer<T> query_sum(grad_query != nullptr ? n_columns * dim : 0), kappa_sum(n_columns, true);

  const int64_t row_limit = std::max<int64_t>(kGradNumbers / std::max<int64_t>(n_columns, dim), 1);
  for (int64_t c0 = 0, c1; c0 < context.n_groups; c0 = c1) {
    c1 = take_groups(context, c0, row_limit);
    const Rows<In, T, T> rows(context, c0, c1, dim, similarity.needs_gram, gemm);
    const int64_t n_rows = total_padded(rows.blocks), n_row_blocks = rows.blocks.size();
    const Buffer<T> grad_sims(n_rows * n_columns, true), grad_sims_transposed(n_rows * n_columns, true);
    const Buffer<T> grad_gram(rows.gram_offset.back(), true);
    const Buffer<T> kappa(similarity.needs_gram ? n_row_blocks * n_columns : 0, true);
    const GradTiles<In, T> tiles{
        context,          similarity,     rows,         columns,          grad_scores,
        grad_parameter,   context_stride, query_stride, grad_sims.data(), grad_sims_transposed.data(),
        grad_gram.data(), kappa.data(),   n_rows,       n_columns};
    const double n_sims = double(n_rows) * n_columns;
    parallel_workers(n_row_blocks, n_sims * (dim + 2 * kWeighWork), [&](auto next) {
      LeftOperand<T, T> left(gemm, rows.largest_block, dim);
      Buffer<T> sims(rows.largest_block * columns.stride, true), grad(rows.largest_group * columns.stride, true);
      Buffer<T> scratch(similarity.scratch(rows.largest_group, columns.stride, columns.groups), true);
      for (int64_t b = next(); b >= 0; b = next()) tiles.compute(b, left, sims, grad, scratch);
    });
    if (similarity.needs_gram)
      for (int64_t b = 0; b < n_row_blocks; b++)
        for (int64_t q = 0; q < n_columns; q++) kappa_sum.data()[q] += kappa.data()[b * n_columns + q];

    Buffer<T> context_panels(grad_query != nullptr || similarity.needs_gram ? n_rows * dim : 0);
    if (context_panels.size() > 0)
      parallel_items(n_row_blocks, double(n_rows) * dim * kMoveWork, [&](int64_t b) {
        pack_row_panels<T, In>(context, rows.blocks[b], n_rows, context_panels.data(), gemm.panel());
      });

    if (grad_context != nullptr)
      parallel_workers(n_row_blocks, n_sims * dim, [&](auto next) {
        Buffer<T> sum(rows.largest_block * dim);
        for (int64_t b = next(); b >= 0; b = next()) {
          const Block& row = rows.blocks[b];
          gemm.of_panels(row.padded, dim, n_columns, grad_sims + row.start * n_columns, n_columns, query_panels.data(),
                         sum.data(), dim);
          int64_t first_row = row.start;
          T* group_sum = sum.data();
          for (int64_t c = row.begin; c < row.end; c++) {
            const int64_t n = context.count(c), stride = Rows<In, T, T>::gram_stride(context, c);
            if (similarity.needs_gram)
              add_square_of_panels(gemm, n, dim, tiles.grad_gram + rows.gram_offset[c - c0], stride,
                                   context_panels.data(), n_rows, first_row, group_sum);
            for (int64_t i = 0; i < n; i++)
              store_gradient<In, T>(context, c, i, group_sum + i * dim,
                                    similarity.needs_gram && rows.gram_of(c)[i * stride + i] == T(0), grad_context);
            first_row += n;
            group_sum += n * dim;
          }
        }
      });

    if (grad_query != nullptr)
      parallel_items(n_column_blocks, n_sims * dim, [&](int64_t b) {
        const Block& column = columns.blocks[b];
        gemm.of_panels(column.padded, dim, n_rows, grad_sims_transposed + column.start * n_rows, n_rows,
                       context_panels.data(), query_sum + column.start * dim, dim, c0 > 0);
      });
  }
  if (grad_query != nullptr)
    parallel_items(n_column_blocks, double(n_columns) * dim * kMoveWork, [&](int64_t b) {
      const Block& column = columns.blocks[b];
      int64_t v = column.start;
      for (int64_t g = column.begin; g < column.end; g++)
        for (int64_t i = 0; i < query.count(g); i++, v++) {
          T* sum = query_sum + v * dim;
          const In* vector = query.vector<In>(g, i);
          const T kappa = kappa_sum.data()[v];
          for (int64_t d = 0; d < dim && similarity.needs_gram; d++) sum[d] += kappa * number_as<T>(vector[d]);
          store_gradient<In, T>(query, g, i, sum, similarity.needs_gram && columns.norm.data()[v] == T(0), grad_query);
        }
    });
}

}  // namespace itm
