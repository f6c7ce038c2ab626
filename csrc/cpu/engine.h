// The tile engine all similarities share: packs the two batches, makes tiles of S = context . query^T that stay in the
// cache, and hands each to the similarity's epilogue. S is never written for the whole problem, padding is never
// computed.
//
//   query superblock (packed panels, bounded memory)
//     context superblock (rows, packed only where they have padding or another type)
//       parallel over row block x column block: S tile by micro-kernel -> epilogue per context group
#pragma once

#include <memory>
#include <new>
#include <vector>

#include "batch.h"
#include "gemm.h"
#include "gram_matrix.h"
#include "parallel.h"
#include "similarity.h"
#include "tile.h"
#include "turn_block.h"

namespace itm {

constexpr int64_t kRowLimit = 144;           // context vectors of a row block: four images of 36 regions
constexpr int64_t kColumnLimit = 256;        // query vectors of a column block
constexpr int64_t kTileNumbers = 96 * 1024;  // of S per tile: of long contexts, whose operands then go by less often
constexpr int64_t kOperandBytes = 16 << 20;  // of packed operand at a time
constexpr int64_t kGradNumbers = 4 << 20;    // of dS at a time in the backward pass
constexpr int64_t kGramBlock = 64;           // rows of a Gram matrix at a time, up to the diagonal

template <class T>
class Buffer {  // 64-byte aligned, uninitialised unless asked for
 public:
  explicit Buffer(int64_t n = 0, bool zero = false) : size_(n) {
    if (n > 0) data_.reset(static_cast<T*>(::operator new(size_t(n) * sizeof(T), kAlignment)));
    if (zero) clear(data(), n * int64_t(sizeof(T)));
  }
  T* data() const { return data_.get(); }
  T* operator+(int64_t i) const { return data() + i; }
  int64_t size() const { return size_; }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(T* data) const { ::operator delete(data, kAlignment); }
  };
  std::unique_ptr<T, Free> data_;
  int64_t size_;
};

inline int64_t total_padded(const std::vector<Block>& blocks) {
  return blocks.empty() ? 0 : blocks.back().start + blocks.back().padded;
}
inline int64_t largest(const Batch& batch) {
  int64_t most = 0;
  for (int64_t g = 0; g < batch.n_groups; g++) most = std::max(most, batch.count(g));
  return most;
}
// Numbers from one row of a tile to the next: an odd number of cache lines, so that a column of rows, which the sums
// over the context read, meets every set of the cache.
inline int64_t tile_stride(int64_t columns) {
  return ((columns + kColumnSlack) / kColumnMultiple | 1) * kColumnMultiple;
}
inline int64_t column_limit(const Batch& context) {
  const int64_t rows = std::max(kRowLimit, largest(context));
  return std::clamp(kTileNumbers / rows / kPanelColumns * kPanelColumns, kPanelColumns, kColumnLimit);
}

// The query side: column blocks, their panels and norms.
template <class In, class Op, class T>
struct Columns {
  int64_t k;
  std::vector<Block> blocks;
  std::vector<std::vector<int32_t>> starts;  // per block, the first column of each group
  Buffer<Op> panels;
  Buffer<T> norm;
  int64_t stride = 0, groups = 0;  // the largest of any block

  Columns(const Batch& query, int64_t begin, int64_t end, int64_t limit, int64_t k, bool norms, int64_t panel)
      : k(k),
        blocks(cut_blocks(query, begin, end, limit, kColumnMultiple)),
        starts(blocks.size()),
        panels(total_padded(blocks) * k),
        norm(norms ? total_padded(blocks) + kColumnSlack : 0, true) {
    for (size_t b = 0; b < blocks.size(); b++) {
      for (int64_t g = blocks[b].begin; g <= blocks[b].end; g++)
        starts[b].push_back(int32_t(query.offset[g] - query.offset[blocks[b].begin]));
      stride = std::max(stride, tile_stride(blocks[b].padded));
      groups = std::max(groups, blocks[b].end - blocks[b].begin);
    }
    parallel_items(blocks.size(), total_padded(blocks) * k * kMoveWork, [&](int64_t b) {
      pack_panels<Op, In, T>(query, blocks[b], k, panels.data(), norms ? norm.data() : static_cast<T*>(nullptr), panel);
    });
  }
};

// The context side: row blocks, their rows (in place when they already lie as needed) and Gram matrices.
template <class In, class Op, class T>
struct Rows {
  int64_t k;
  std::vector<Block> blocks;
  Buffer<Op> packed;
  const Op* data;
  std::vector<int64_t> gram_offset;  // per group from the first one
  Buffer<T> gram;
  int64_t begin, largest_block = 0, largest_group = 0;

  Rows(const Batch& context, int64_t begin, int64_t end, int64_t k, bool grams, Gemm<Op, T> gemm)
      : k(k),
        blocks(cut_blocks(context, begin, end, kRowLimit, in_place(context, k) ? 1 : 4)),
        gram_offset(1, 0),
        begin(begin) {
    for (const Block& block : blocks) largest_block = std::max(largest_block, block.padded);
    for (int64_t g = begin; g < end; g++) {
      largest_group = std::max(largest_group, context.count(g));
      gram_offset.push_back(gram_offset.back() + (grams ? gram_stride(context, g) * gram_stride(context, g) : 0));
    }
    if constexpr (std::is_same_v<In, Op>)
      if (in_place(context, k)) data = context.vector<In>(begin, 0);
    if (!in_place(context, k)) {
      packed = Buffer<Op>(total_padded(blocks) * k);
      data = packed.data();
      parallel_items(blocks.size(), total_padded(blocks) * k * kMoveWork,
                     [&](int64_t b) { pack_rows<Op, In>(context, blocks[b], k, packed.data()); });
    }
    if (grams) compute_grams(context, end, gemm);
  }

  static bool in_place(const Batch& context, int64_t k) {
    return std::is_same_v<In, Op> && context.dense && context.dim == k;
  }
  static int64_t gram_stride(const Batch& context, int64_t g) { return round_up(context.count(g), 4); }
  T* gram_of(int64_t g) const { return gram + gram_offset[g - begin]; }

 private:
  void compute_grams(const Batch& context, int64_t end, Gemm<Op, T> gemm) {
    gram = Buffer<T>(gram_offset.back(), true);
    const int64_t widest = round_up(largest_group, kColumnMultiple);
    parallel_workers(end - begin, double(gram_offset.back() + total_padded(blocks) * kMoveWork) * k, [&](auto next) {
      Buffer<Op> panels(widest * k);
      Buffer<T> product(kGramBlock * widest);
      const Op* row_at[kGramVectors];
      for (int64_t i = next(); i >= 0; i = next()) {
        const int64_t g = begin + i, n = context.count(g), padded = round_up(n, kColumnMultiple);
        const int64_t stride = gram_stride(context, g);
        const Op* rows = data + row_of(context, g) * k;
        if constexpr (std::is_same_v<Op, T>) {
          if (n <= kGramVectors) {
            for (int64_t r = 0; r < n; r++) row_at[r] = rows + r * k;
            ITM_PICK(gram_matrix<T>)(row_at, n, k, gram_of(g), stride);
            continue;
          }
        }
        pack_panels<Op, In, T>(context, {g, g + 1, n, padded, 0}, k, panels.data(), nullptr, gemm.panel());
        for (int64_t first = 0; first < n; first += kGramBlock) {
          const int64_t last = std::min(n, first + kGramBlock), width = std::min(round_up(last, gemm.panel()), padded);
          gemm.of_panels(last - first, width, k, rows + first * k, k, panels.data(), product.data(), width);
          T* gram = gram_of(g) + first * stride;
          for (int64_t r = first; r < last; r++)
            std::copy_n(product + (r - first) * width, last, gram + (r - first) * stride);
          ITM_PICK(turn_block<T>)(last - first, first, gram, stride, gram_of(g) + first, stride);
        }
      }
      gemm.release();
    });
  }

 public:
  // First packed row of a group.
  int64_t row_of(const Batch& context, int64_t g) const {
    auto block = std::upper_bound(blocks.begin(), blocks.end(), g, [](int64_t x, const Block& b) { return x < b.end; });
    return block->start + context.offset[g] - context.offset[block->begin];
  }
};

// The left operand of a worker's tiles: rows that stay the same for a while are packed once.
template <class Op, class T>
class LeftOperand {
 public:
  LeftOperand(Gemm<Op, T> gemm, int64_t most_rows, int64_t k)
      : gemm(gemm), k(k), room(gemm.packs_left() ? most_rows * k : 0) {}

  void take(const Op* rows, int64_t n) {
    if (rows == taken) return;
    taken = rows, n_rows = n;
    left = gemm.left(n, k, rows, room.data());
  }
  // S of these rows against one column block, [rows, stride].
  void multiply(const Op* panels, const Block& column, T* sims, int64_t stride) const {
    gemm.of_left(n_rows, column.padded, k, left, panels + column.start * k, sims, stride);
  }

 private:
  const Gemm<Op, T> gemm;
  const int64_t k;
  Buffer<Op> room;
  const Op *taken = nullptr, *left = nullptr;
  int64_t n_rows = 0;
};

template <class In, class Op, class T>
void score_forward(const Batch& context, const Batch& query, const Similarity<T>& similarity, T* scores,
                   int64_t context_stride, int64_t query_stride) {
  const Gemm<Op, T> gemm;
  const int64_t k = round_up(context.dim, std::is_same_v<Op, BFloat16> ? 2 : 1);
  const int64_t operand_limit = std::max<int64_t>(kOperandBytes / (k * sizeof(Op)), 1);
  const int64_t columns_per_block = column_limit(context);
  for (int64_t q0 = 0, q1; q0 < query.n_groups; q0 = q1) {
    q1 = take_groups(query, q0, operand_limit);
    const Columns<In, Op, T> columns(query, q0, q1, columns_per_block, k, similarity.needs_gram, gemm.panel());
    for (int64_t c0 = 0, c1; c0 < context.n_groups; c0 = c1) {
      c1 = take_groups(context, c0, operand_limit);
      const Rows<In, Op, T> rows(context, c0, c1, k, similarity.needs_gram, gemm);
      const int64_t n_columns = columns.blocks.size();
      const double n_sims = double(total_padded(rows.blocks)) * total_padded(columns.blocks);
      parallel_workers(rows.blocks.size() * n_columns, n_sims * (k + kWeighWork), [&](auto next) {
        LeftOperand<Op, T> left(gemm, rows.largest_block, k);
        Buffer<T> sims(rows.largest_block * columns.stride, true);
        Buffer<T> scratch(similarity.scratch(rows.largest_group, columns.stride, columns.groups), true);
        for (int64_t item = next(); item >= 0; item = next()) {
          const Block& row = rows.blocks[item / n_columns];
          const Block& column = columns.blocks[item % n_columns];
          const auto& starts = columns.starts[item % n_columns];
          Tile<T> tile{};
          tile.n_columns = column.vectors;
          tile.n_groups = column.end - column.begin;
          tile.first_group = column.begin;
          tile.columns = starts.data();
          tile.stride = tile_stride(column.padded);
          tile.query_norm = similarity.needs_gram ? columns.norm + column.start : nullptr;
          tile.score_stride = query_stride;
          tile.scratch = scratch.data();
          left.take(rows.data + row.start * k, row.padded);
          left.multiply(columns.panels.data(), column, sims.data(), tile.stride);
          const T* group_sims = sims.data();
          for (int64_t c = row.begin; c < row.end; c++) {
            tile.context = c;
            tile.n_context = context.count(c);
            tile.sims = group_sims;
            if (similarity.needs_gram)
              tile.gram = rows.gram_of(c), tile.gram_stride = Rows<In, Op, T>::gram_stride(context, c);
            tile.scores = scores + c * context_stride + column.begin * query_stride;
            similarity.forward(tile);
            group_sims += tile.n_context * tile.stride;
          }
        }
        gemm.release();
      });
    }
  }
}

}  // namespace itm
