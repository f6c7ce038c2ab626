// Products of the vectors of lists' owners with those of their members, and sums of products along lists. Nothing is
// gathered: a thread finds the rows that it copies by the numbers of their matrices. A block makes 128 x 128 numbers.
#include "listed_products.h"
#include "tile_product.cuh"

namespace itm::cuda {
namespace {

struct ListedShared {
  ProductMemory product;
};

static_assert(sizeof(ListedShared) <= 81 * 1024);  // twice on an A100, with what a block reserves

struct Tiles {
  ListedArgs of;
  int32_t columns, column_tiles, row_tiles;  // of a list
};

// A block's part of a list's product or sum.
struct ListedTile {
  int list, top, left, n_rows, n_columns;
  int64_t first_step;
  int n_steps;  // one, where no sum is asked for

  SIMT_DEVICE ListedTile(const Tiles& tiles, int number) {
    const ListedArgs& args = tiles.of;
    list = number / (tiles.column_tiles * tiles.row_tiles);
    top = number / tiles.column_tiles % tiles.row_tiles * kTileVectors;
    left = number % tiles.column_tiles * kTileVectors;
    n_rows = args.left.rows - top < kTileVectors ? args.left.rows - top : kTileVectors;
    n_columns = tiles.columns - left < kTileVectors ? tiles.columns - left : kTileVectors;
    first_step = list;
    n_steps = 1;
    if (args.bounds == nullptr) return;
    first_step = __ldg(args.bounds + list);
    n_steps = int(__ldg(args.bounds + list + 1) - first_step);
  }
};

// As Copies, of rows whose matrix is found by the list, the column or the step. A step's numbers are cut into chunks;
// the chunks of a list's steps follow each other.
template <int kThreads>
class ListedCopies {
 public:
  SIMT_DEVICE ListedCopies(const ListedArgs& args, const ListedTile& tile, int64_t row_bytes)
      : args_(args),
        tile_(tile),
        row_bytes_(row_bytes),
        n_chunks_(int(row_bytes / 16)),
        rows_{rows_of(tile.n_rows), rows_of(tile.n_columns)} {
    for (int side = 0; side < 2; side++)
      for (int piece = 0; piece < kPieces; piece++) {
        const int row = piece * kRowsOfPiece + int(threadIdx.x) / kChunks;
        const bool there = row < (side == 0 ? tile.n_rows : tile.n_columns);
        from_[side][piece] = there ? (side == 0 ? left_row(tile.top + row) : right_row(tile.left + row)) : -1;
      }
  }

  SIMT_DEVICE void start(Stage& stage, int number) const {
    const int row = int(threadIdx.x) / kChunks, chunk = int(threadIdx.x) % kChunks;
    int within = number * kChunks + chunk;  // its chunk of a row
    int64_t at[2] = {0, 0};
    bool there = within < n_chunks_;
    if (args_.bounds != nullptr) {
      const int step = within / n_chunks_;
      within -= step * n_chunks_;
      there = step < tile_.n_steps;
      for (int side = 0; side < 2; side++) {
        const ListedSide& of = side == 0 ? args_.left : args_.right;
        const int64_t matrix = there ? number_of(of, tile_.first_step + step) : -1;
        there = matrix >= 0;
        at[side] = matrix * of.rows * row_bytes_;
      }
    }
    unsigned char* to = stage.rows[0][row] + (chunk ^ (row / 2 & 3)) * 16;
    for (int side = 0; side < 2; side++)
      for (int piece = 0; piece < kPieces; piece++) {
        if (piece * kRowsOfPiece >= rows_[side]) continue;  // nobody reads them
        const bool copies = there && from_[side][piece] >= 0;
        const auto* data = static_cast<const unsigned char*>(side == 0 ? args_.left.data : args_.right.data);
        simt::cp_async16(to + (side * kTileVectors + piece * kRowsOfPiece) * kStageBytes,
                         copies ? data + from_[side][piece] + at[side] + within * 16 : data, copies ? 16 : 0);
      }
  }

 private:
  static constexpr int kChunks = kStageBytes / 16, kRowsOfPiece = kThreads / kChunks;
  static constexpr int kPieces = kTileVectors / kRowsOfPiece;
  SIMT_DEVICE static int rows_of(int n) { return (n + kWarpRows - 1) / kWarpRows * kWarpRows; }
  // The matrix at a place; -1: none.
  SIMT_DEVICE static int64_t number_of(const ListedSide& side, int64_t place) {
    const int64_t number = side.numbers == nullptr ? place : __ldg(side.numbers + place);
    return number < side.n ? number : -1;
  }
  SIMT_DEVICE int64_t at(int64_t matrix, const ListedSide& side, int row) const {
    return matrix < 0 ? -1 : (matrix * side.rows + row) * row_bytes_;
  }
  SIMT_DEVICE int64_t left_row(int row) const {
    return at(args_.bounds == nullptr ? number_of(args_.left, tile_.list) : 0, args_.left, row);
  }
  SIMT_DEVICE int64_t right_row(int column) const {
    if (args_.bounds != nullptr) return at(0, args_.right, column);
    const int place = column / args_.right.rows, row = column - place * args_.right.rows;
    return at(number_of(args_.right, int64_t(tile_.list) * args_.length + place), args_.right, row);
  }

  const ListedArgs& args_;
  const ListedTile& tile_;
  int64_t row_bytes_;
  int n_chunks_;              // of a row
  int rows_[2];               // that warps read
  int64_t from_[2][kPieces];  // bytes before the row, in its matrix or the batch; below 0: zeros
};

template <class Product>
SIMT_KERNEL(Product::kThreads, Product::kBlocks)
listed_kernel(Tiles tiles) {
  if constexpr (SIMT_IS_SINCE_AMPERE) {
    constexpr int kWarps = Product::kThreads / 32;
    auto& shared = simt::shared<ListedShared>();
    const ListedArgs& args = tiles.of;
    const ListedTile tile(tiles, int(blockIdx.x));
    if (tile.n_steps == 0) return;
    const int64_t row_bytes = int64_t(args.dim) * int64_t(sizeof(typename Product::Number));
    multiply_copies<Product, PaddedSims>(shared.product, tile.n_rows, tile.n_columns, tile.n_steps * row_bytes,
                                         [&]() { return ListedCopies<Product::kThreads>(args, tile, row_bytes); });
    SYNC(121);
    const int lane = int(threadIdx.x) % 32;
    const float inverse = args.scale == nullptr ? 1.0f : 1.0f / __ldg(args.scale);
    for (int row = int(threadIdx.x) / 32; row < tile.n_rows; row += kWarps) {
      float* to = args.out + (int64_t(tile.list) * args.left.rows + tile.top + row) * tiles.columns + tile.left;
      for (int column = lane; column < tile.n_columns; column += 32) {
        const float found = shared.product.sims[row * kSimsLd + column];
        to[column] = args.bounds == nullptr ? found : to[column] + found * inverse;
      }
    }
  }
}

Tiles tiles_of(const ListedArgs& args) {
  const auto tiles = [](int32_t n) { return (n + kTileVectors - 1) / kTileVectors; };
  const int32_t columns = args.bounds == nullptr ? args.length * args.right.rows : args.right.rows;
  return {args, columns, tiles(columns), tiles(args.left.rows)};
}

template <class Product>
void launch(const ListedArgs& args, void* stream) {
  SIMT_LAUNCH(listed_kernel<Product>, dim3(unsigned(listed_blocks(args))), dim3(Product::kThreads),
              sizeof(ListedShared), stream, tiles_of(args));
}

}  // namespace

int64_t listed_blocks(const ListedArgs& args) {
  const Tiles tiles = tiles_of(args);
  return int64_t(args.n_lists) * tiles.row_tiles * tiles.column_tiles;
}

void multiply_lists(const ListedArgs& args, Product product, void* stream) {
  if (product == Product::kBf16) launch<ProductBf16>(args, stream);
  if (product == Product::kF16) launch<ProductF16>(args, stream);
  if (product == Product::kTf32) launch<ProductTf32>(args, stream);
  if (product == Product::kTf32x3) launch<ProductTf32x3>(args, stream);
}

}  // namespace itm::cuda
