// Scores, and their gradient in S, where S of some contexts with all queries lies in memory: for float64 and compute
// capability 7.5, for attention to groups that no tile holds, and for attention's backward pass, whose products with dS
// need it there anyway. A block takes one context and goes through its share of the query groups, 64 columns at a time;
// float32 S of the pair is copied into shared memory where it fits; otherwise, and in float64, it is worked on in
// place.
#include "attention.cuh"
#include "groups.cuh"

namespace itm::cuda {
namespace {

constexpr int kThreads = 256, kMostQueries = kChunkColumns / 8;

// Places in ChunkShared::numbers, in numbers of type T.
struct Layout {
  int32_t ld;                       // of S, weights and products in shared memory: 4 more than a multiple of 32
  int32_t sims, weights, products;  // [context_pitch][ld]
  int32_t inverse, size;            // [context_pitch][queries_per_tile]
  int32_t columns, width;           // kVectors vectors of `width`, one number a column
  int32_t numbers;
};
enum ColumnVector { kSum, kDot, kValue, kGrad, kGradDot, kGradQuadratic, kOffset, kVectors };

Layout layout_of(const ChunkArgs& args, bool backward, bool on_chip) {
  Layout layout{};
  int32_t next = 0;
  auto take = [&](int32_t n) {
    const int32_t at = next;
    next += (n + 3) / 4 * 4;
    return at;
  };
  layout.width = args.queries_per_tile * args.query_pitch;
  layout.ld = (layout.width + 31) / 32 * 32 + 4;
  layout.sims = take(on_chip ? args.context_pitch * layout.ld : 0);
  layout.weights = take(on_chip && backward ? args.context_pitch * layout.ld : 0);
  layout.products = take(on_chip && backward ? args.context_pitch * layout.ld : 0);
  layout.inverse = take(args.context_pitch * args.queries_per_tile);
  layout.size = take(args.context_pitch * args.queries_per_tile);
  layout.columns = take(kVectors * layout.width);
  layout.numbers = next;
  return layout;
}

template <class T>
struct ChunkShared {
  int32_t begin[kMostQueries], size[kMostQueries];
  alignas(16) T numbers[1];  // as many as the layout says
};

// One context with some query groups: what all steps below work on.
template <class T>
struct Pair {
  T *sims, *weights, *products;
  int ld, n_rows, width;  // width: columns, with those that are padding
  Columns columns;
  int query_pitch;
  RowStatistics<T> statistics;
  T* column;  // kVectors vectors
  int column_ld;

  SIMT_DEVICE T& at(ColumnVector vector, int q) const { return column[vector * column_ld + q]; }
  SIMT_DEVICE int group(int q) const { return q / query_pitch; }
  SIMT_DEVICE bool valid(int q) const { return q % query_pitch < columns.size[q / query_pitch]; }
  SIMT_DEVICE RowStatistics<T> statistics_of(int q) const {
    return {statistics.inverse + group(q), statistics.size + group(q), statistics.n_groups};
  }
};

SIMT_DEVICE void load_of_tile(const float* from, float (&to)[4]) {
  const float4 x = simt::load16(from);
  to[0] = x.x, to[1] = x.y, to[2] = x.z, to[3] = x.w;
}
template <class T>
SIMT_DEVICE void load_of_tile(const T* from, T (&to)[1]) {
  to[0] = from[0];
}
SIMT_DEVICE void store_of_tile(const float (&from)[4], float* to) {
  simt::store16(float4{from[0], from[1], from[2], from[3]}, to);
}
template <class T>
SIMT_DEVICE void store_of_tile(const T (&from)[1], T* to) {
  to[0] = from[0];
}

SIMT_DEVICE void store4(const float (&from)[4], float* to) { store_of_tile(from, to); }
SIMT_DEVICE void store4(const double (&from)[4], double* to) {
  for (int i = 0; i < 4; i++) to[i] = from[i];
}

SIMT_DEVICE void copy_sims(const float* from, int64_t from_ld, const Pair<float>& pair) {
  const int per_row = pair.width / 4;
  for (int i = int(threadIdx.x); i < pair.n_rows * per_row; i += kThreads) {
    const int row = i / per_row, at = i % per_row * 4;
    simt::store16(simt::load16(from + row * from_ld + at), pair.sims + row * pair.ld + at);
  }
}

// products = G weights: of a thread twice four rows, so that neighbours read G side by side, and one column or four;
// what is padding in a group's last four is zero.
template <int kAcross, class T>
SIMT_DEVICE void gram_products(const Pair<T>& pair, const T* gram, int pitch) {
  // Of one column a thread, a warp's rows are the same.
  const int across = kAcross > 1 ? pair.width / kAcross : (pair.width + 31) / 32 * 32, half = (pair.n_rows + 7) / 8 * 4;
  for (int task = int(threadIdx.x); task < half / 4 * across; task += kThreads) {
    const int first = task / across * 4, q = task % across * kAcross;
    if (q >= pair.width || !pair.valid(q)) continue;
    T sums[8][kAcross] = {};
    const T *of_rows = gram + first, *weights = pair.weights + q;  // G's rows are its columns
    const int more = first + half < pitch ? half : 0;
#pragma unroll 2
    for (int k = 0; k < pair.n_rows; k++, of_rows += pitch, weights += pair.ld) {
      T g[2][4], x[kAcross];
      load4(of_rows, g[0]);
      load4(of_rows + more, g[1]);
      load_of_tile(weights, x);
      for (int i = 0; i < 8; i++)
        for (int j = 0; j < kAcross; j++) sums[i][j] += g[i / 4][i % 4] * x[j];
    }
    for (int i = 0; i < 8; i++) {
      const int row = first + i / 4 * half + i % 4;
      if (row < pair.n_rows) store_of_tile(sums[i], pair.products + row * pair.ld + q);
    }
  }
}

// From a column's cosine and its cotangent to those of a . s and a^T G a, to what the softmax over the context
// subtracts (0 unless the clamp is active: the cosine does not change with the length of a), and to kappa, the gradient
// along the query itself.
template <class T>
SIMT_DEVICE T column_gradient(const Pair<T>& pair, int q, T length) {
  const T inverse = T(1) / pair.at(kSum, q), raw = pair.at(kGradQuadratic, q);
  const T quadratic = (raw > T(0) ? raw : T(0)) * inverse * inverse;
  const T norms = length * sqrt(quadratic), grad = pair.at(kGrad, q), cosine = pair.at(kValue, q);
  const bool live = !(norms < T(kEpsilon));
  const T grad_dot = grad / (live ? norms : T(kEpsilon));
  pair.at(kSum, q) = inverse;
  pair.at(kGradDot, q) = grad_dot;
  pair.at(kGradQuadratic, q) = live ? -grad * cosine / quadratic : T(0);
  pair.at(kOffset, q) = live ? T(0) : grad_dot * pair.at(kDot, q) * inverse;
  return live ? -grad * cosine / (length * length) : T(0);
}

// weights <- a; products <- lambda times the cotangent of a's logits: that of P. Zero in columns that are padding and
// in the rows up to a multiple of four.
template <class T>
SIMT_DEVICE void attention_gradient(const Pair<T>& pair, T lambda) {
  const int lane = int(threadIdx.x) % 32;
  for (int row = int(threadIdx.x) / 32; row < (pair.n_rows + 3) / 4 * 4; row += kThreads / 32)
    for (int q = lane; q < pair.width; q += 32) {
      const int at = row * pair.ld + q;
      T a = 0, grad = 0;
      if (row < pair.n_rows && pair.valid(q)) {
        const T inverse = pair.at(kSum, q);
        a = pair.weights[at] * inverse;
        grad = lambda * a *
               (pair.at(kGradDot, q) * pair.sims[at] + pair.at(kGradQuadratic, q) * pair.products[at] * inverse -
                pair.at(kOffset, q));
      }
      pair.weights[at] = a;
      pair.products[at] = grad;
    }
}

// dS = grad_dot a + the transpose of the first normalisation applied to `products`. A row without any similarity gets
// nothing of the latter: the original divides by its norm, 0. Four rows and eight lanes along a group at a time, as in
// row_statistics; rows and columns that are padding become 0. `keeps`: and leaves a and grad_quadratic a, as ChunkArgs
// says of kRest.
template <class T, class Grad>
SIMT_DEVICE void sims_gradient(const Normalisation<T>& norm, const Pair<T>& pair, int rows, T scale, bool keeps,
                               Grad* out, int64_t out_ld) {
  const int lane = int(threadIdx.x) % 32, place = lane % 8;
  for (int task = int(threadIdx.x) / 32; task < rows / 4 * pair.columns.n_groups; task += kThreads / 32) {
    const int group = task % pair.columns.n_groups, row = task / pair.columns.n_groups * 4 + lane / 8;
    const int begin = pair.columns.begin[group], size = row < pair.n_rows ? pair.columns.size[group] : 0;
    const RowStatistics<T> of{pair.statistics.inverse + row * pair.statistics.n_groups + group,
                              pair.statistics.size + row * pair.statistics.n_groups + group, 0};
    const T* s = pair.sims + row * pair.ld + begin;
    const T* t = pair.products + row * pair.ld + begin;
    T sum = 0, inverse = 1, length = 1;
    if (norm.sums() && size > 0) {
      inverse = *of.inverse;
      length = *of.size;
      for (int w = place; w < size; w += 8) sum += t[w] * (norm.softmax ? norm.apply(s[w], of, 0) : norm.clip(s[w]));
    }
    sum = simt::group_sum(sum, 8);
    for (int w = place; w < pair.query_pitch; w += 8) {
      T grad = 0;
      if (w < size) {
        const T k = norm.clip(s[w]);
        T through = t[w];
        if (norm.softmax) through = norm.apply(s[w], of, 0) * (t[w] - sum);
        if (norm.l2 | norm.l1) {
          const T direction = norm.l2 ? k / length : k > T(0) ? T(1) : k < T(0) ? T(-1) : T(0);
          through = length == T(0) ? T(0) : t[w] * inverse - direction * (inverse * inverse * sum);
        }
        grad = pair.at(kGradDot, begin + w) * pair.weights[row * pair.ld + begin + w] + norm.slope(s[w]) * through;
      }
      narrow_finite(scale * grad, out[row * out_ld + begin + w]);
      if (!keeps) continue;
      T& weight = pair.weights[row * pair.ld + begin + w];  // nobody else's
      weight = w < size ? weight : T(0);
      pair.products[row * pair.ld + begin + w] = pair.at(kGradQuadratic, begin + w) * weight;
    }
  }
}

// The Gram matrix's gradient: the sum over the columns of grad_quadratic a a^T, its lower blocks of 4 x 4 one after the
// other, four lanes a block.
template <class T>
SIMT_DEVICE void gram_gradient(const Pair<T>& pair, T* out, bool add) {
  constexpr int per = sizeof(T) == 4 ? 4 : 1;  // columns a lane loads at once: what the registers hold
  const int bands = (pair.n_rows + 3) / 4, n_blocks = bands * (bands + 1) / 2, part = int(threadIdx.x) % 4;
  for (int first = 0; first < n_blocks; first += kThreads / 4) {
    const int block = first + int(threadIdx.x) / 4;
    const bool inside = block < n_blocks;
    int top = inside ? int((sqrtf(8.0f * float(block) + 1.0f) - 1.0f) * 0.5f) : 0;
    if (inside && (top + 1) * (top + 2) / 2 <= block) top++;
    if (inside && top * (top + 1) / 2 > block) top--;
    const int left = inside ? block - top * (top + 1) / 2 : 0;
    T sums[4][4] = {};
    T* to = out + block * 16 + part * 4;  // the part's row of the block
    if (inside && add) {
      for (int j = 0; j < 4; j += per) {
        T old[per];
        load_of_tile(to + j, old);
        for (int i = 0; i < 4; i++)
          for (int k = 0; k < per; k++) sums[i][j + k] = part == i ? old[k] : T(0);
      }
    }
#pragma unroll 1
    for (int q = part * per; inside && q < pair.width; q += 4 * per) {
      T weight[per], a[per], b[4][per];
      load_of_tile(&pair.at(kGradQuadratic, q), weight);
      for (int j = 0; j < 4; j++) load_of_tile(pair.weights + (left * 4 + j) * pair.ld + q, b[j]);
      for (int i = 0; i < 4; i++) {
        load_of_tile(pair.weights + (top * 4 + i) * pair.ld + q, a);
        for (int j = 0; j < 4; j++)
          for (int k = 0; k < per; k++) sums[i][j] += weight[k] * a[k] * b[j][k];
      }
    }
    T row[4];
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
      for (int j = 0; j < 4; j++) {
        const T sum = simt::group_sum(sums[i][j], 4);
        if (part == i) row[j] = sum;
      }
    if (inside) store4(row, to);
  }
}

// The cotangent of a column's largest similarity goes to the first row that reaches it.
template <class T, class Grad>
SIMT_DEVICE void largest_gradient(const Pair<T>& pair, int rows, T scale, Grad* out, int64_t out_ld) {
  for (int q = int(threadIdx.x); q < pair.width; q += kThreads) {
    T left = pair.n_rows > 0 && pair.valid(q) ? pair.at(kGrad, q) : T(0);
    const bool any = pair.n_rows > 0 && pair.valid(q);
    const T largest = any ? pair.at(kValue, q) : T(0);
    for (int row = 0; row < rows; row++) {
      const bool inside = any && row < pair.n_rows;
      const T s = inside ? pair.sims[row * pair.ld + q] : T(0);
      const bool hit = inside && (s == largest || s != s);
      narrow_finite(hit ? scale * left : T(0), out[row * out_ld + q]);
      left = hit ? T(0) : left;
    }
  }
}

// Calls write(out, scale) with dS in the type that products with it take, which is T on Turing.
template <class T, class Write>
SIMT_DEVICE void write_as(Number type, const ChunkArgs& args, const Write& write) {
  if constexpr (sizeof(T) == 4 && SIMT_IS_SINCE_AMPERE) {
    if (type == Number::kBf16) return write(static_cast<simt::bf16*>(args.grad_sims), T(1));
    if (type == Number::kF16) return write(static_cast<simt::f16*>(args.grad_sims), T(*args.scale));
  }
  write(static_cast<T*>(args.grad_sims), T(1));
}

template <class T, bool kOnChip, bool kBackward>
SIMT_KERNEL(kThreads, 2)
chunk_kernel(ChunkArgs args, Layout layout, Number grad_type) {
  // S of the forward pass fits on chip where attention_chunks.cu's kernels take it, which Turing has not.
  if (kOnChip && !kBackward && !SIMT_IS_BEFORE_AMPERE) return;
  constexpr bool kInParts = kBackward && !kOnChip && sizeof(T) == 4;
  const ChunkPart part = kInParts ? args.part : ChunkPart::kWhole;
  constexpr int kAcross = kOnChip || sizeof(T) > 4 ? 1 : 4;  // columns of G a thread: contexts in memory are large
  auto& shared = simt::shared<ChunkShared<T>>();
  const int t = int(threadIdx.x), context = int(blockIdx.x) / args.splits, split = int(blockIdx.x) % args.splits;
  const int64_t n_columns = int64_t(args.n_queries) * args.query_pitch;
  const int64_t first_row = int64_t(context) * args.context_pitch;
  const int n_tiles = (args.n_queries + args.queries_per_tile - 1) / args.queries_per_tile;
  const bool attends = args.options.attends != 0;
  const Normalisation<T> norm(args.options.feature_norm);
  const T lambda = T(args.options.lambda_softmax), lambda_lse = T(args.options.lambda_lse);
  const T* gram = static_cast<const T*>(args.gram) + first_row * args.context_pitch;
  const T* norms = static_cast<const T*>(args.norms);

  Pair<T> pair;
  const int n_rows = size_of(args.context_counts, context, args.context_max);
  pair.query_pitch = args.query_pitch;
  pair.statistics = {shared.numbers + layout.inverse, shared.numbers + layout.size, args.queries_per_tile};
  pair.column = shared.numbers + layout.columns;
  pair.column_ld = layout.width;
  for (int tile = split; tile < n_tiles; tile += args.splits) {
    const int first_query = tile * args.queries_per_tile;
    const int left = args.n_queries - first_query;
    const int n_queries = left < args.queries_per_tile ? left : args.queries_per_tile;
    const int64_t first_column = int64_t(first_query) * args.query_pitch;
    const int64_t place = first_row * n_columns + first_column;
    pair.columns = {shared.begin, shared.size, n_queries};
    pair.n_rows = n_rows;
    pair.width = n_queries * args.query_pitch;
    simt::make_anew(pair.n_rows);  // the backward pass has no register to spare
    simt::make_anew(pair.width);
    if constexpr (kOnChip) {
      pair.sims = shared.numbers + layout.sims;
      pair.weights = kBackward ? shared.numbers + layout.weights : pair.sims;
      pair.products = shared.numbers + layout.products;
      pair.ld = layout.ld;
    } else {
      pair.sims = static_cast<T*>(const_cast<void*>(args.sims)) + place;
      pair.weights = kBackward ? static_cast<T*>(args.weights) + place : pair.sims;
      pair.products = kBackward ? static_cast<T*>(args.products) + place : pair.sims;
      pair.ld = int(n_columns);
    }
    SYNC(41);
    if (t < n_queries) {
      shared.begin[t] = t * args.query_pitch;
      shared.size[t] = size_of(args.query_counts, first_query + t, args.query_max);
    }
    if constexpr (kOnChip) copy_sims(static_cast<const T*>(args.sims) + place, n_columns, pair);
    SYNC(42);
    if (attends && norm.sums() && pair.n_rows > 0)
      row_statistics(norm, pair.sims, pair.ld, pair.n_rows, pair.columns, pair.statistics);
    SYNC(43);
    for (int q = t; pair.n_rows > 0 && q < pair.width; q += kThreads) {
      if (!pair.valid(q)) {
        if (kInParts && part == ChunkPart::kWhole && attends && pair.valid(q / kAcross * kAcross))
          for (int row = 0; row < pair.n_rows; row++) pair.weights[row * pair.ld + q] = T(0);
        continue;
      }
      T* s = pair.sims + q;
      if (!attends) {
        pair.at(kValue, q) = largest_similarity(s, pair.ld, pair.n_rows);
        continue;
      }
      const bool alone = part == ChunkPart::kWeights;
      T* weights = alone ? static_cast<T*>(args.weights) + (context * n_columns + first_column + q) * args.context_pitch
                         : pair.weights + q;
      const Attended<T> sums =
          attend<T>(norm, lambda, s, pair.ld, weights, alone ? 1 : pair.ld, pair.n_rows, pair.statistics_of(q));
      if constexpr (kBackward) {
        pair.at(kSum, q) = sums.sum;
        pair.at(kDot, q) = sums.dot;
      } else {
        const T quadratic = gram_quadratic(gram, args.context_pitch, pair.weights + q, pair.ld, pair.n_rows);
        pair.at(kValue, q) = attended_cosine(sums, quadratic, norms[first_column + q]);
      }
    }
    SYNC(44);
    if (part == ChunkPart::kWeights) continue;
    if constexpr (kBackward) {
      if (attends) {
        if (part == ChunkPart::kWhole) gram_products<kAcross>(pair, gram, args.context_pitch);
        SYNC(45);
        for (int q = t; pair.n_rows > 0 && q < pair.width; q += kThreads) {
          if (!pair.valid(q)) continue;
          T quadratic = 0;
          for (int row = 0; row < pair.n_rows; row++)
            quadratic += pair.weights[row * pair.ld + q] * pair.products[row * pair.ld + q];
          pair.at(kGradQuadratic, q) = quadratic;
          pair.at(kValue, q) =
              attended_cosine<T>({pair.at(kSum, q), pair.at(kDot, q)}, quadratic, norms[first_column + q]);
        }
        SYNC(46);
      }
    }
    for (int first = 0; first < n_queries; first += kThreads / 8) {
      const int group = first + t / 8, lane = t % 8;
      const bool inside = group < n_queries;
      const int size = inside && pair.n_rows > 0 ? pair.columns.size[group] : 0;
      const int begin = inside ? pair.columns.begin[group] : 0;
      const T* values = &pair.at(kValue, begin);
      const int64_t score = context * args.context_stride + (first_query + group) * args.query_stride;
      if constexpr (kBackward) {
        const T grad = size > 0 ? static_cast<const T*>(args.grad_scores)[score] : T(0);
        aggregate_backward(args.options.aggregation, lambda_lse, values, size, lane, grad, &pair.at(kGrad, begin));
        for (int w = lane; attends && inside && w < args.query_pitch; w += 8) {
          T kappa = 0;
          if (w < size)
            kappa = column_gradient(pair, begin + w, norms[first_column + begin + w]);
          else
            pair.at(kGradQuadratic, begin + w) = T(0);
          static_cast<T*>(args.kappa)[context * n_columns + first_column + begin + w] = kappa;
        }
      } else {
        const T value = aggregate(args.options.aggregation, lambda_lse, values, size, lane);
        if (inside && lane == 0) static_cast<T*>(args.scores)[score] = value;
      }
    }
    if constexpr (kBackward) {
      SYNC(47);
      if (attends) {
        attention_gradient(pair, lambda);
        SYNC(48);
        write_as<T>(grad_type, args, [&](auto* out, T scale) {
          sims_gradient(norm, pair, args.context_pitch, scale, part == ChunkPart::kRest, out + place, n_columns);
        });
        if (part == ChunkPart::kRest) continue;
        T* sums = static_cast<T*>(args.grad_gram) + (int64_t(split) * args.n_contexts + context) * args.gram_numbers;
        gram_gradient(pair, sums, tile != split);
      } else {
        write_as<T>(grad_type, args, [&](auto* out, T scale) {
          largest_gradient(pair, args.context_pitch, scale, out + place, n_columns);
        });
      }
    }
  }
}

template <class T, bool kOnChip, bool kBackward>
void launch(const ChunkArgs& args, Number grad_type, void* stream) {
  const dim3 grid(unsigned(args.n_contexts) * unsigned(args.splits)), block(kThreads);
  const Layout layout = layout_of(args, kBackward, kOnChip);
  const size_t bytes = sizeof(ChunkShared<T>) + sizeof(T) * size_t(layout.numbers);
  SIMT_LAUNCH((chunk_kernel<T, kOnChip, kBackward>), grid, block, bytes, stream, args, layout, grad_type);
}

}  // namespace

int64_t chunk_shared_bytes(const ChunkArgs& args, Number number, bool backward, bool on_chip) {
  const int64_t numbers = layout_of(args, backward, on_chip).numbers;
  return number == Number::kDouble ? int64_t(sizeof(ChunkShared<double>)) + 8 * numbers
                                   : int64_t(sizeof(ChunkShared<float>)) + 4 * numbers;
}

void score_chunk(const ChunkArgs& args, Number number, bool on_chip, void* stream) {
  if (number == Number::kDouble) return launch<double, false, false>(args, number, stream);
  on_chip ? launch<float, true, false>(args, number, stream) : launch<float, false, false>(args, number, stream);
}

void gradient_chunk(const ChunkArgs& args, Number number, Number grad_type, bool on_chip, void* stream) {
  if (number == Number::kDouble) return launch<double, false, true>(args, number, stream);
  on_chip ? launch<float, true, true>(args, grad_type, stream) : launch<float, false, true>(args, grad_type, stream);
}

}  // namespace itm::cuda
