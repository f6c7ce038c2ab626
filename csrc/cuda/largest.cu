// The largest similarity of each query vector with context groups of any size: a block makes S of 128 query vectors and
// a tile of small groups, or of one group 128 rows after the other with a running maximum. S never leaves the chip.
#include "attention.cuh"
#include "tile_product.cuh"

namespace itm::cuda {
namespace {

constexpr int kPairsThreads = 256, kMostThreads = 256;

struct LargestShared {
  ProductMemory product;
  int32_t rows[2][kTileVectors], columns[kTileVectors];  // places in the batch; rows of this step and of the next
  float largest[kMostThreads];                           // so far, of each part of each column
  int32_t row[kMostThreads];
};

static_assert(sizeof(LargestShared) <= 81 * 1024);

// The place in the batch of vector `number` of groups, or of a list's members, [begin, end), counted without padding.
SIMT_DEVICE int32_t place_of(const Side& side, int begin, int end, int number) {
  while (end - begin > 1) {
    const int middle = (begin + end) / 2;
    (side.offsets[middle] <= number ? begin : end) = middle;
  }
  const int group = side.groups == nullptr ? begin : side.groups[begin];
  return group * side.max + (number - side.offsets[begin]);
}

SIMT_DEVICE int vectors_of(const Side& side, int begin, int end) {
  return side.offsets[end - 1] + side.sizes[end - 1] - side.offsets[begin];
}

// Some contexts with 128 vectors of some queries: groups of a plan or places of lists.
struct Work {
  int context, context_end, query, query_end;
  int first_column;  // of these queries' vectors, counted without padding
};

// How many query vectors a context may meet: all, those of its own list, or those of the list's owner.
SIMT_DEVICE int most_columns(const LargestArgs& args) {
  if (args.query.list_length > 0) return args.query.list_length * args.query.max;
  return args.context.list_length > 0 ? args.query.max : args.query.offsets[args.query.n_groups];
}
SIMT_DEVICE Work work_of(const LargestArgs& args, int64_t number, int context_tiles, int column_tiles) {
  const Side& context = args.context;
  const int row = int(number / column_tiles), first_column = int(number % column_tiles) * kTileVectors;
  if (const int length = args.query.list_length; length > 0)
    return {row, row + 1, row * length, (row + 1) * length, first_column};
  if (context.list_length > 0) {
    const int owner = context.tile_begin[row] / context.list_length;
    return {context.tile_begin[row], context.tile_end[row], owner, owner + 1, first_column};
  }
  const TilePair pair = tile_pair(number, context_tiles, column_tiles);
  return {context.tile_begin[pair.context], context.tile_end[pair.context], 0, args.query.n_groups,
          pair.query * kTileVectors};
}

// The first that no other exceeds; row -1: none yet.
SIMT_DEVICE void take_larger(float value, int32_t row, float& largest, int32_t& at) {
  const bool equal = !exceeds(value, largest) & !exceeds(largest, value);
  const bool take = (row >= 0) & ((at < 0) | exceeds(value, largest) | (equal & (row < at)));
  largest = take ? value : largest;
  at = take ? row : at;
}

SIMT_DEVICE void write(const LargestArgs& args, int context, int number, float largest, int32_t row) {
  const int64_t at = context * args.pitch + number;
  args.largest[at] = row < 0 ? NAN : largest;
  if (args.rows != nullptr) args.rows[at] = row;
}

// As many blocks as run at a time share all work.
template <class Product>
SIMT_KERNEL(Product::kThreads, Product::kBlocks)
largest_kernel(LargestArgs args) {
  if constexpr (SIMT_IS_SINCE_AMPERE) {
    constexpr int kParts = Product::kThreads / kTileVectors;  // threads that share a column, and the rows of a step
    auto& shared = simt::shared<LargestShared>();
    const int t = int(threadIdx.x), column = t % kTileVectors, part = t / kTileVectors;
    const int context_tiles = args.query.list_length > 0 ? args.context.n_groups : *args.context.n_tiles;
    const int column_tiles = (most_columns(args) + kTileVectors - 1) / kTileVectors;
    for (int64_t number = blockIdx.x; number < int64_t(context_tiles) * column_tiles; number += gridDim.x) {
      const Work work = work_of(args, number, context_tiles, column_tiles);
      const int first_column = work.first_column, first = work.context, n_groups = work.context_end - first;
      const int columns_left = vectors_of(args.query, work.query, work.query_end) - first_column;
      if (columns_left <= 0) continue;
      const int start = args.context.offsets[first], n_rows = vectors_of(args.context, first, work.context_end);
      const int n_columns = columns_left < kTileVectors ? columns_left : kTileVectors;
      float* const s = shared.product.sims + column;

      if (t < n_columns)
        shared.columns[t] =
            place_of(args.query, work.query, work.query_end, args.query.offsets[work.query] + first_column + t);
      if (t < kTileVectors && t < n_rows)
        shared.rows[0][t] = place_of(args.context, first, first + n_groups, start + t);
      shared.largest[t] = 0;
      shared.row[t] = -1;
      SYNC(61);
      for (int begin = 0, step = 0; begin < n_rows; begin += kTileVectors, step = 1 - step) {
        const int rest = n_rows - begin, n = rest < kTileVectors ? rest : kTileVectors;
        tile_product<Product>(shared.product, {args.context.data, shared.rows[step], n},
                              {args.query.data, shared.columns, n_columns}, args.dim);
        if (t < rest - n && t < kTileVectors)
          shared.rows[1 - step][t] = place_of(args.context, first, first + n_groups, start + begin + kTileVectors + t);
        SYNC(62);
        if (n_groups == 1 && column < n_columns) {
          float largest = shared.largest[t];
          int32_t at = shared.row[t];
          const int end = n < (part + 1) * (kTileVectors / kParts) ? n : (part + 1) * (kTileVectors / kParts);
          for (int row = part * (kTileVectors / kParts); row < end; row++) {
            const float x = s[row * kSimsLd];
            const bool take = (at < 0) | exceeds(x, largest);
            largest = take ? x : largest;
            at = take ? begin + row : at;
          }
          shared.largest[t] = largest;
          shared.row[t] = at;
        }
        if (rest > n) SYNC(63);
      }
      if (n_groups == 1) {
        SYNC(64);
        if (t < n_columns) {
          float largest = shared.largest[t];
          int32_t at = shared.row[t];
          for (int other = 1; other < kParts; other++)
            take_larger(shared.largest[other * kTileVectors + t], shared.row[other * kTileVectors + t], largest, at);
          write(args, first, first_column + t, largest, at);
        }
      }
      // Several groups in one step: a thread a column of a group.
      for (int group = part; n_groups > 1 && group < n_groups && column < n_columns; group += kParts) {
        const int top = args.context.offsets[first + group] - start, size = args.context.sizes[first + group];
        float largest = 0;
        int32_t at = -1;
        for (int row = 0; row < size; row++) {
          const float x = s[(top + row) * kSimsLd];
          const bool take = (at < 0) | exceeds(x, largest);
          largest = take ? x : largest;
          at = take ? row : at;
        }
        write(args, first + group, first_column + column, largest, at);
      }
      SYNC(65);  // the next tile takes this one's place
    }
  }
}

// Eight lanes a pair of context and query group; of lists a place, whose owner is the context or, without offsets, the
// query.
template <bool kBackward>
SIMT_KERNEL(kPairsThreads, 4)
pairs_kernel(PairsArgs args) {
  const int t = int(threadIdx.x), place = t % 8;
  const int64_t pair = int64_t(blockIdx.x) * (kPairsThreads / 8) + t / 8;
  bool inside = pair < int64_t(args.n_contexts) * args.n_queries;
  int context = inside ? int(pair / args.n_queries) : 0, query = inside ? int(pair % args.n_queries) : 0;
  if (inside && args.groups != nullptr) {
    inside = args.groups[pair] >= 0;
    query = args.offsets == nullptr ? context : int(pair);
    context = args.offsets == nullptr ? int(pair) : context;
  }
  float* values = args.largest + context * args.pitch + (args.offsets == nullptr ? 0 : args.offsets[query]);
  const int size = inside ? args.sizes[query] : 0;
  const int64_t score = context * args.context_stride + query * args.query_stride;
  const float lambda = float(args.options.lambda_lse);
  if constexpr (kBackward) {
    const float grad = inside ? args.grad_scores[score] : 0.0f;
    aggregate_backward(args.options.aggregation, lambda, values, size, place, grad, values);
  } else {
    const float value = aggregate<float>(args.options.aggregation, lambda, values, size, place);
    if (inside && place == 0 && args.scores != nullptr) args.scores[score] = value;
    if (args.rows != nullptr && args.options.aggregation == Aggregation::kMax) {
      const int largest = first_largest(values, size, place).index;
      int32_t* rows = args.rows + (values - args.largest);
      for (int q = place; q < size; q += 8)
        if (q != largest) rows[q] = -1;
    }
  }
}

template <class Product>
void launch(const LargestArgs& args, void* stream) {
  const Side &context = args.context, &query = args.query;
  int64_t contexts = context.most_tiles, queries = context.list_length > 0 ? 1 : query.n_groups;
  if (query.list_length > 0) contexts = context.n_groups, queries = query.list_length;
  const int64_t tiles = contexts * ((queries * query.max + kTileVectors - 1) / kTileVectors);
  SIMT_LAUNCH(largest_kernel<Product>, blocks_of<Product>(tiles, args.multiprocessors), dim3(Product::kThreads),
              sizeof(LargestShared), stream, args);
}

}  // namespace

void find_largest(const LargestArgs& args, Product product, void* stream) {
  if (product == Product::kBf16) launch<ProductBf16>(args, stream);
  if (product == Product::kF16) launch<ProductF16>(args, stream);
  if (product == Product::kTf32) launch<ProductTf32>(args, stream);
  if (product == Product::kTf32x3) launch<ProductTf32x3>(args, stream);
}

void score_largest(const PairsArgs& args, void* stream) {
  constexpr int per_block = kPairsThreads / 8;
  const dim3 grid(unsigned((int64_t(args.n_contexts) * args.n_queries + per_block - 1) / per_block));
  if (args.grad_scores != nullptr)
    SIMT_LAUNCH(pairs_kernel<true>, grid, dim3(kPairsThreads), 0, stream, args);
  else
    SIMT_LAUNCH(pairs_kernel<false>, grid, dim3(kPairsThreads), 0, stream, args);
}

}  // namespace itm::cuda
