// Gradients of late interaction from the context rows that its maxima are in: two sums of rows, and no product. A
// maximum with cotangent w adds w times the context row to its query vector's gradient, and w times the query vector to
// the row's. Sums run in the order of the other side's vectors, whatever the number of threads.
#pragma once

#include "engine.h"
#include "engine_backward.h"
#include "max_similarity.h"

namespace itm {

constexpr double kGatherWork = 4;  // a number of a row found somewhere and added

// Vectors of groups [begin, end) as rows of T: where they lie, or converted.
template <class In, class T>
class NumberRows {
 public:
  NumberRows(const Batch& batch, int64_t begin, int64_t end)
      : batch(batch), first(batch.offset[begin]), room(lie ? 0 : (batch.offset[end] - first) * batch.dim) {
    if constexpr (!lie)
      parallel_items(end - begin, double(room.size()) * kMoveWork, [&](int64_t i) {
        const int64_t g = begin + i, n = batch.count(g);
        pack_rows<T, In>(batch, {g, g + 1, n, n, batch.offset[g] - first}, batch.dim, room.data());
      });
  }
  const T* of(int64_t group) const {
    if constexpr (lie)
      return batch.vector<In>(group, 0);
    else
      return room + (batch.offset[group] - first) * batch.dim;
  }
  int64_t stride() const { return lie ? batch.vector_stride() : batch.dim; }

 private:
  static constexpr bool lie = std::is_same_v<In, T>;
  const Batch& batch;
  const int64_t first;
  Buffer<T> room;
};

// Sums of gradients of groups [begin, end), in the result itself where it has their type, otherwise put there at last.
template <class In, class T>
class GradientSums {
 public:
  GradientSums(const Batch& batch, int64_t begin, int64_t end, In* out)
      : batch(batch),
        first(batch.offset[begin]),
        out(out),
        room(lie ? 0 : (batch.offset[end] - first) * batch.dim, true) {}

  T* of(int64_t group) const {
    if constexpr (lie)
      return out + batch.rows_before(group) * batch.dim;
    else
      return room + (batch.offset[group] - first) * batch.dim;
  }
  void finish(int64_t group) const {
    if constexpr (!lie)
      for (int64_t i = 0; i < batch.count(group); i++)
        store_gradient<In, T>(batch, group, i, of(group) + i * batch.dim, false, out);
  }

 private:
  static constexpr bool lie = std::is_same_v<In, T>;
  const Batch& batch;
  const int64_t first;
  In* out;
  Buffer<T> room;
};

// rows, values [context groups, stride]: of a context group those of all query vectors without padding; values only
// where the aggregation needs them. Gradients are zeros, or null where they are not wanted.
template <class In, class T>
struct GradientsOfMaxima {
  const Batch &context, &query;
  const MaxSimilarity& options;
  const int32_t* rows;
  const T* values;
  int64_t stride;
  const T* grad_scores;
  int64_t context_stride, query_stride;

  void compute(In* grad_context, In* grad_query) const {
    const int64_t dim = context.dim, n_queries = query.total();
    const NumberRows<In, T> query_rows(query, 0, query.n_groups);
    const GradientSums<In, T> of_queries(query, 0, grad_query != nullptr ? query.n_groups : 0, grad_query);
    const int64_t most_rows = std::max<int64_t>(kOperandBytes / (dim * int64_t(sizeof(T))), 1);
    const int64_t most_groups = std::max<int64_t>(kGradNumbers / std::max<int64_t>(n_queries, 1), 1);
    for (int64_t c0 = 0, c1; c0 < context.n_groups; c0 = c1) {
      c1 = std::min(take_groups(context, c0, most_rows), c0 + most_groups);
      const Buffer<T> weights = weigh(c0, c1);
      const double work = double(c1 - c0) * n_queries * dim * kGatherWork;
      const auto part = [&](int64_t c, int64_t g) {
        WeightedRows<T> part{};
        part.n = query.count(g);
        part.dim = dim;
        part.weights = weights + (c - c0) * width() + query.offset[g];
        return part;
      };
      const auto rows_of = [&](int64_t c, int64_t g) { return rows + c * stride + query.offset[g]; };
      if (grad_context != nullptr) {
        const GradientSums<In, T> of_context(context, c0, c1, grad_context);
        parallel_items(c1 - c0, work, [&](int64_t i) {
          const int64_t c = c0 + i;
          for (int64_t g = 0; g < query.n_groups; g++) {
            WeightedRows<T> x = part(c, g);
            x.from = query_rows.of(g), x.from_stride = query_rows.stride();
            x.to = of_context.of(c), x.to_row = rows_of(c, g);
            ITM_PICK(add_weighted_rows<T>)(x);
          }
          of_context.finish(c);
        });
      }
      if (grad_query == nullptr) continue;
      const NumberRows<In, T> context_rows(context, c0, c1);
      parallel_items(query.n_groups, work, [&](int64_t g) {
        for (int64_t c = c0; c < c1; c++) {
          WeightedRows<T> x = part(c, g);
          x.from = context_rows.of(c), x.from_stride = context_rows.stride(), x.from_row = rows_of(c, g);
          x.to = of_queries.of(g);
          ITM_PICK(add_weighted_rows<T>)(x);
        }
      });
    }
    if (grad_query != nullptr)
      parallel_items(query.n_groups, double(n_queries) * dim, [&](int64_t g) { of_queries.finish(g); });
  }

 private:
  int64_t width() const { return round_up(query.total(), kColumnMultiple) + kColumnSlack; }

  // Cotangents of the maxima of context groups [c0, c1): [groups, width()].
  Buffer<T> weigh(int64_t c0, int64_t c1) const {
    Buffer<T> weights((c1 - c0) * width());
    const std::vector<int32_t> columns(query.offset.begin(), query.offset.end());
    parallel_workers(c1 - c0, double(c1 - c0) * query.total() * kScanWork, [&](auto next) {
      Buffer<T> of_group(values != nullptr ? width() : 0, true), scratch(query.n_groups);
      for (int64_t i = next(); i >= 0; i = next()) {
        const int64_t c = c0 + i, n = context.count(c);
        const int32_t* row = rows + c * stride;
        ITM_CHECK_VALUE(std::all_of(row, row + query.total(), [n](int32_t r) { return 0 <= r && r < n; }),
                        "rows of context group ", c, " must be 0 to ", n - 1);
        if (values != nullptr) std::copy_n(values + c * stride, query.total(), of_group.data());
        Tile<T> tile{};
        tile.n_columns = query.total();
        tile.n_groups = query.n_groups;
        tile.columns = columns.data();
        tile.grad_scores = grad_scores + c * context_stride;
        tile.score_stride = query_stride;
        ITM_PICK(weights_of_maxima<T>)(tile, options, of_group.data(), weights + i * width(), scratch.data());
      }
    });
    return weights;
  }
};

}  // namespace itm
