// Scores without S in memory: a block makes S of up to 128 x 128 vectors, whole groups of both sides, by tensor cores
// and finishes the scores of all its pairs on chip.
#include "attention_tile.cuh"

namespace itm::cuda {
namespace {

template <int kGroups>
SIMT_DEVICE void find_vectors(const Side& side, int tile, TileSide<kGroups>& out) {
  const int first = side.tile_begin[tile], n = side.tile_end[tile] - first, start = side.offsets[first];
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  for (int group = warp; group < n; group += int(blockDim.x) / 32) {
    const int begin = side.offsets[first + group] - start, size = side.sizes[first + group];
    const int number = side.groups == nullptr ? first + group : side.groups[first + group];
    if (lane == 0) {
      out.begin[group] = begin;
      out.size[group] = size;
      out.number[group] = number;
    }
    for (int i = lane; i < size; i += 32) {
      out.source[begin + i] = number * side.max + i;
      out.group[begin + i] = group;
    }
  }
}

SIMT_DEVICE int vectors_of(const Side& side, int tile) {
  const int last = side.tile_end[tile] - 1;
  return side.offsets[last] + side.sizes[last] - side.offsets[side.tile_begin[tile]];
}

// Pairs of tiles: all, or each of the members with that of the list's owner.
SIMT_DEVICE int64_t pairs_of(const Side& context, const Side& query) {
  if (context.list_length > 0) return *context.n_tiles;
  return query.list_length > 0 ? *query.n_tiles : int64_t(*context.n_tiles) * *query.n_tiles;
}
SIMT_DEVICE TilePair pair_of(const Side& context, const Side& query, int64_t number) {
  const int tile = int(number);
  if (context.list_length > 0) return {tile, context.tile_begin[tile] / context.list_length};
  if (query.list_length > 0) return {query.tile_begin[tile] / query.list_length, tile};
  return tile_pair(number, *context.n_tiles, *query.n_tiles);
}

struct TileShared {
  ProductMemory product;
  float of_rows[kTileVectors * kRowPitch];
  TileSide<kTileContexts> context;
  TileSide<kTileQueries> query;
};

static_assert(sizeof(TileShared) <= 81 * 1024);  // twice on an A100, with what a block reserves

// The largest similarity of each column with each context, in the context's first row of S.
SIMT_DEVICE void find_largest(float* sims, const TileSide<kTileContexts>& context, int n_contexts, int n_columns) {
  const int column = int(threadIdx.x) % kTileVectors;
  if (column >= n_columns) return;
  for (int number = int(threadIdx.x) / kTileVectors; number < n_contexts; number += int(blockDim.x) / kTileVectors) {
    float* s = sims + context.begin[number] * kSimsLd + column;
    if (context.size[number] > 0) s[0] = largest_similarity(s, kSimsLd, context.size[number]);
  }
}

// All products share a kernel, for the attention's code is most of it: two blocks of 128 threads have the registers of
// one of 256.
constexpr int kMostThreads = ProductTf32x3::kThreads;
static_assert(kMostThreads * ProductTf32x3::kBlocks == ProductBf16::kThreads * ProductBf16::kBlocks);

template <class Sims>
SIMT_DEVICE void multiply(Product kind, ProductMemory& memory, const Operand& context, const Operand& query, int dim) {
  if (kind == Product::kBf16)
    tile_product<ProductBf16, Sims>(memory, context, query, dim);
  else if (kind == Product::kF16)
    tile_product<ProductF16, Sims>(memory, context, query, dim);
  else if (kind == Product::kTf32)
    tile_product<ProductTf32, Sims>(memory, context, query, dim);
  else
    tile_product<ProductTf32x3, Sims>(memory, context, query, dim);
}

// Rows: how the attention normalises S; void: no attention. As many blocks as run at a time share all tiles.
template <class Rows>
SIMT_KERNEL(kMostThreads, ProductTf32x3::kBlocks)
tiles_kernel(TilesArgs args, Product kind) {
  if constexpr (SIMT_IS_SINCE_AMPERE) {
    auto& shared = simt::shared<TileShared>();
    float* sims = shared.product.sims;
    const int64_t n_pairs = pairs_of(args.context, args.query);
    for (int64_t number = blockIdx.x; number < n_pairs; number += gridDim.x) {
      const TilePair pair = pair_of(args.context, args.query, number);
      find_vectors(args.context, pair.context, shared.context);
      find_vectors(args.query, pair.query, shared.query);
      const int first_context = args.context.tile_begin[pair.context], first_query = args.query.tile_begin[pair.query];
      const int n_contexts = args.context.tile_end[pair.context] - first_context;
      const int n_queries = args.query.tile_end[pair.query] - first_query;
      const int n_rows = vectors_of(args.context, pair.context), n_columns = vectors_of(args.query, pair.query);
      SYNC(21);

      using Sims = std::conditional_t<std::is_void_v<Rows>, PaddedSims, PermutedSims>;
      multiply<Sims>(kind, shared.product, {args.context.data, shared.context.source, n_rows},
                     {args.query.data, shared.query.source, n_columns}, args.dim);
      SYNC(22);
      if constexpr (std::is_void_v<Rows>) {
        find_largest(sims, shared.context, n_contexts, n_columns);
      } else {
        const TileAttention<Rows> attention(args.options);
        attention.number_rows(sims, shared.query, n_queries, n_rows, shared.of_rows);
        SYNC(23);
        attention.attend(
            sims, shared.of_rows, shared.context, n_contexts, shared.query, n_columns, args.gram, args.gram_blocks,
            [&](int source) {
              return __ldg(args.norms + source / args.query.max * args.norm_pitch + source % args.query.max);
            });
      }
      SYNC(24);

      // Eight lanes a score.
      constexpr int kValuesLd = std::is_void_v<Rows> ? kSimsLd : PermutedSims::kLd;
      for (int first = 0; first < n_contexts * n_queries; first += int(blockDim.x) / 8) {
        const int pair_number = first + int(threadIdx.x) / 8, place = int(threadIdx.x) % 8;
        const bool inside = pair_number < n_contexts * n_queries;
        const int context = inside ? pair_number / n_queries : 0, query = inside ? pair_number % n_queries : 0;
        const bool known = inside && shared.context.size[context] > 0;
        const float score =
            aggregate<float>(args.options.aggregation, float(args.options.lambda_lse),
                             sims + (known ? shared.context.begin[context] * kValuesLd : 0) + shared.query.begin[query],
                             known ? shared.query.size[query] : 0, place);
        const bool there = inside && (shared.context.number[context] | shared.query.number[query]) >= 0;
        if (there && place == 0)
          args.scores[(first_context + context) * args.context_stride + (first_query + query) * args.query_stride] =
              score;
      }
      SYNC(27);  // the next tile takes this one's place
    }
  }
}

struct GramShared {
  ProductMemory product;
  TileSide<kTileContexts> context;
};

static_assert(sizeof(GramShared) <= 81 * 1024);

template <class Product>
SIMT_KERNEL(Product::kThreads, Product::kBlocks)
gram_kernel(GramArgs args) {
  if constexpr (SIMT_IS_SINCE_AMPERE) {
    auto& shared = simt::shared<GramShared>();
    const int across = args.pitch / 8, n_blocks = gram_block(across, 0);
    for (int tile = int(blockIdx.x); tile < *args.context.n_tiles; tile += int(gridDim.x)) {
      find_vectors(args.context, tile, shared.context);
      const int first = args.context.tile_begin[tile], n_groups = args.context.tile_end[tile] - first;
      const Operand vectors{args.context.data, shared.context.source, vectors_of(args.context, tile)};
      SYNC(25);
      tile_product<Product>(shared.product, vectors, vectors, args.dim);
      SYNC(26);
      for (int group = 0; group < n_groups; group++) {
        const int begin = shared.context.begin[group], size = shared.context.size[group];
        const float* from = shared.product.sims + begin * kSimsLd + begin;
        float* to = args.gram + int64_t(first + group) * n_blocks * kGramBlock;
        for (int i = int(threadIdx.x); i < across * across * 32; i += Product::kThreads) {
          const int lane = i % 32, rows = i / 32 % across, columns = i / 32 / across;
          if (columns > rows) continue;
          const int row = rows * 8 + lane % 4, column = columns * 8 + column_of_lane(lane);
          float big[2], small[2];
          for (int k = 0; k < 2; k++) {
            const bool inside = row + 4 * k < size && column < size;
            const float x = inside ? from[(row + 4 * k) * kSimsLd + column] : 0.0f;
            split_for_gram(columns < rows ? 2 * x : x, big[k], small[k]);
          }
          simt::store16(float4{big[0], big[1], small[0], small[1]},
                        to + gram_block(rows, columns) * kGramBlock + lane * 4);
        }
      }
      SYNC(28);
    }
  }
}

template <class Rows>
void launch(const TilesArgs& args, Product kind, void* stream) {
  const Side &context = args.context, &query = args.query;
  int64_t tiles = int64_t(context.most_tiles) * query.most_tiles;
  if (context.list_length > 0 || query.list_length > 0)
    tiles = context.list_length > 0 ? context.most_tiles : query.most_tiles;
  const bool three = kind == Product::kTf32x3;
  const dim3 grid = three ? blocks_of<ProductTf32x3>(tiles, args.multiprocessors)
                          : blocks_of<ProductBf16>(tiles, args.multiprocessors);
  const int threads = three ? ProductTf32x3::kThreads : ProductBf16::kThreads;
  SIMT_LAUNCH(tiles_kernel<Rows>, grid, dim3(unsigned(threads)), sizeof(TileShared), stream, args, kind);
}

template <class Product>
void launch_gram(const GramArgs& args, void* stream) {
  SIMT_LAUNCH(gram_kernel<Product>, blocks_of<Product>(args.context.most_tiles, args.multiprocessors),
              dim3(Product::kThreads), sizeof(GramShared), stream, args);
}

}  // namespace

void score_tiles(const TilesArgs& args, Product product, void* stream) {
  if (args.options.attends == 0) return launch<void>(args, product, stream);
  args.options.feature_norm == FeatureNorm::kSoftmax ? launch<SoftmaxOfRows>(args, product, stream)
                                                     : launch<ScaledRows>(args, product, stream);
}

void gram_tiles(const GramArgs& args, Product product, void* stream) {
  if (product == Product::kBf16) launch_gram<ProductBf16>(args, stream);
  if (product == Product::kF16) launch_gram<ProductF16>(args, stream);
  if (product == Product::kTf32) launch_gram<ProductTf32>(args, stream);
  if (product == Product::kTf32x3) launch_gram<ProductTf32x3>(args, stream);
}

}  // namespace itm::cuda
