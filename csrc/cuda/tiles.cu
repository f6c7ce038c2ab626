// Scores without S in memory: a block makes S of up to 128 x 128 vectors, whole groups of both sides, by tensor cores
// and finishes the scores of all its pairs on chip.
#include "attention.cuh"
#include "tile_product.cuh"

namespace itm::cuda {
namespace {

// A tile's groups of one side, and where their vectors are.
template <int kGroups>
struct TileSide {
  int32_t begin[kGroups], size[kGroups];  // of each group, in vectors of the tile
  int32_t source[kTileVectors];           // number in the batch
  int32_t group[kTileVectors];
};

template <int kGroups>
SIMT_DEVICE void find_vectors(const Side& side, int tile, TileSide<kGroups>& out) {
  const int first = side.tile_begin[tile], n = side.tile_begin[tile + 1] - first, start = side.offsets[first];
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  for (int group = warp; group < n; group += kProductThreads / 32) {
    const int begin = side.offsets[first + group] - start, size = side.sizes[first + group];
    if (lane == 0) {
      out.begin[group] = begin;
      out.size[group] = size;
    }
    for (int i = lane; i < size; i += 32) {
      out.source[begin + i] = (first + group) * side.max + i;
      out.group[begin + i] = group;
    }
  }
}

SIMT_DEVICE int vectors_of(const Side& side, int tile) {
  return side.offsets[side.tile_begin[tile + 1]] - side.offsets[side.tile_begin[tile]];
}

struct TileShared {
  ProductMemory product;
  float inverse[kTileVectors * kTileQueries], size[kTileVectors * kTileQueries];
  float norm[kTileVectors];
  TileSide<kTileContexts> context;
  TileSide<kTileQueries> query;
};

static_assert(sizeof(TileShared) <= 87 * 1024);

// Blocks that run at the same time share operands: bands of context tiles, all query tiles within a band.
constexpr int kBand = 8;
struct TilePair {
  int context, query;
};
SIMT_DEVICE TilePair tile_pair(const TilesArgs& args) {
  const int64_t per_band = int64_t(kBand) * args.query.most_tiles;
  const int band = int(blockIdx.x / per_band), within = int(blockIdx.x % per_band);
  const int left = args.context.most_tiles - band * kBand, width = left < kBand ? left : kBand;
  return {band * kBand + within % width, within / width};
}

template <class Product, bool kAttends>
SIMT_KERNEL(kProductThreads, 1)
tiles_kernel(TilesArgs args) {
  const TilePair pair = tile_pair(args);
  if (pair.context >= *args.context.n_tiles || pair.query >= *args.query.n_tiles) return;
  auto& shared = simt::shared<TileShared>();
  const int t = int(threadIdx.x);
  find_vectors(args.context, pair.context, shared.context);
  find_vectors(args.query, pair.query, shared.query);
  const int first_context = args.context.tile_begin[pair.context], first_query = args.query.tile_begin[pair.query];
  const int n_contexts = args.context.tile_begin[pair.context + 1] - first_context;
  const int n_queries = args.query.tile_begin[pair.query + 1] - first_query;
  const int n_rows = vectors_of(args.context, pair.context), n_columns = vectors_of(args.query, pair.query);
  SYNC(21);

  tile_product<Product>(shared.product, {args.context.data, shared.context.source, n_rows},
                        {args.query.data, shared.query.source, n_columns}, args.dim);
  const Normalisation<float> norm(args.options.feature_norm);
  const Columns columns{shared.query.begin, shared.query.size, n_queries};
  const RowStatistics<float> statistics{shared.inverse, shared.size, n_queries};
  float* sims = shared.product.sims;
  if (kAttends && t < n_columns) {
    const int source = shared.query.source[t];
    shared.norm[t] = __ldg(args.norms + source / args.query.max * args.norm_pitch + source % args.query.max);
  }
  SYNC(22);
  if (kAttends && norm.sums() && n_rows > 0) row_statistics(norm, sims, kSimsLd, n_rows, columns, statistics);
  SYNC(23);

  // A thread a query of a context; its value replaces S in the context's first row.
  const int width = (n_columns + 31) / 32 * 32;
  for (int task = t; task < n_contexts * width; task += kProductThreads) {
    const int context = task / width, column = task % width;
    const int begin = shared.context.begin[context], size = shared.context.size[context];
    if (column >= n_columns || size == 0) continue;
    float* s = sims + begin * kSimsLd + column;
    if constexpr (kAttends) {
      const int at = norm.sums() ? begin * n_queries + shared.query.group[column] : 0;
      const Attended<float> sums = attend<float>(norm, float(args.options.lambda_softmax), s, s, kSimsLd, size,
                                                 {shared.inverse + at, shared.size + at, n_queries});
      const float* gram = args.gram + int64_t(first_context + context) * args.gram_pitch * args.gram_pitch;
      s[0] = attended_cosine(sums, gram_quadratic(gram, args.gram_pitch, s, kSimsLd, size), shared.norm[column]);
    } else {
      s[0] = largest_similarity(s, kSimsLd, size);
    }
  }
  SYNC(24);

  // Eight lanes a score.
  for (int first = 0; first < n_contexts * n_queries; first += kProductThreads / 8) {
    const int pair_number = first + t / 8, place = t % 8;
    const bool inside = pair_number < n_contexts * n_queries;
    const int context = inside ? pair_number / n_queries : 0, query = inside ? pair_number % n_queries : 0;
    const bool known = inside && shared.context.size[context] > 0;
    const float score =
        aggregate<float>(args.options.aggregation, float(args.options.lambda_lse),
                         sims + (known ? shared.context.begin[context] * kSimsLd : 0) + shared.query.begin[query],
                         known ? shared.query.size[query] : 0, place);
    if (inside && place == 0)
      args.scores[(first_context + context) * args.context_stride + (first_query + query) * args.query_stride] = score;
  }
}

struct GramShared {
  ProductMemory product;
  TileSide<kTileContexts> context;
};

static_assert(sizeof(GramShared) <= 87 * 1024);

template <class Product>
SIMT_KERNEL(kProductThreads, 1)
gram_kernel(GramArgs args) {
  const int tile = int(blockIdx.x);
  if (tile >= *args.context.n_tiles) return;
  auto& shared = simt::shared<GramShared>();
  find_vectors(args.context, tile, shared.context);
  const int first = args.context.tile_begin[tile], n_groups = args.context.tile_begin[tile + 1] - first;
  const Operand vectors{args.context.data, shared.context.source, vectors_of(args.context, tile)};
  SYNC(25);
  tile_product<Product>(shared.product, vectors, vectors, args.dim);
  SYNC(26);
  for (int group = 0; group < n_groups; group++) {
    const int begin = shared.context.begin[group], size = shared.context.size[group];
    const float* from = shared.product.sims + begin * kSimsLd + begin;
    float* to = args.gram + int64_t(first + group) * args.pitch * args.pitch;
    for (int i = int(threadIdx.x); i < size * args.pitch; i += kProductThreads) {
      const int row = i / args.pitch, column = i % args.pitch;
      to[i] = column < size ? from[row * kSimsLd + column] : 0.0f;
    }
  }
}

template <class Product>
void launch(const TilesArgs& args, void* stream) {
  const dim3 grid(unsigned(args.context.most_tiles) * unsigned(args.query.most_tiles)), block(kProductThreads);
  if (args.options.attends != 0)
    SIMT_LAUNCH((tiles_kernel<Product, true>), grid, block, sizeof(TileShared), stream, args);
  else
    SIMT_LAUNCH((tiles_kernel<Product, false>), grid, block, sizeof(TileShared), stream, args);
}

template <class Product>
void launch_gram(const GramArgs& args, void* stream) {
  SIMT_LAUNCH(gram_kernel<Product>, dim3(unsigned(args.context.most_tiles)), dim3(kProductThreads), sizeof(GramShared),
              stream, args);
}

}  // namespace

void score_tiles(const TilesArgs& args, Product product, void* stream) {
  if (product == Product::kBf16) launch<ProductBf16>(args, stream);
  if (product == Product::kF16) launch<ProductF16>(args, stream);
  if (product == Product::kTf32) launch<ProductTf32>(args, stream);
  if (product == Product::kTf32x3) launch<ProductTf32x3>(args, stream);
}

void gram_tiles(const GramArgs& args, Product product, void* stream) {
  if (product == Product::kBf16) launch_gram<ProductBf16>(args, stream);
  if (product == Product::kF16) launch_gram<ProductF16>(args, stream);
  if (product == Product::kTf32) launch_gram<ProductTf32>(args, stream);
  if (product == Product::kTf32x3) launch_gram<ProductTf32x3>(args, stream);
}

}  // namespace itm::cuda
