// SGR's and SAF's similarity vectors and their gradients, of which nothing of the size of pairs x words x dim is
// written but two operands of the backward pass's products. A block takes 64 words of a list and 256 columns, eight
// warps of 32 x 64; contexts, differences and squares are made on chip, 32 numbers of K at a time.
#include "attended_vectors.h"
#include "numbers.cuh"

namespace itm::cuda {
namespace {

constexpr int kThreads = 256, kWords = 64, kColumns = 256, kWarpsAcross = 4, kWarpWords = 32, kWarpColumns = 64;
constexpr int kChunk = 32;  // numbers of K at a time
// Sixteen bytes more than the numbers, so that eight rows meet no bank twice.
constexpr int kChunkBytes = 2 * kChunk + 16, kRegionBytes = 2 * kAttendedRegions + 16;
constexpr float kEpsilonOfLength = 1e-8f;

using ChunkRow = unsigned char[kChunkBytes];
using RegionRow = unsigned char[kRegionBytes];

template <class T>
struct alignas(4) Two {
  T x[2];
};
template <class T>
struct alignas(16) Eight {
  T x[8];
};

SIMT_DEVICE void multiply_add(simt::bf16, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  simt::mma_bf16(d, a, b);
}
SIMT_DEVICE void multiply_add(simt::f16, float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  simt::mma_f16(d, a, b);
}

template <class T>
SIMT_DEVICE float rounded(float x) {
  T narrowed;
  narrow(x, narrowed);
  return widened(narrowed);
}

// Where a column of a block lies among the rows of its operand: so that a lane's sums are of 16 neighbouring columns.
SIMT_DEVICE int place_of(int column) {
  const int within = column % kWarpColumns;
  return column / kWarpColumns * kWarpColumns + within % 16 / 2 * 8 + within / 16 * 2 + within % 2;
}
SIMT_DEVICE int in_order(int row) { return row; }

// Starts to copy kPieces times 16 bytes, from byte `at` on, of rows of `row_bytes`; zero beyond them.
template <int kRows, int kPieces, class Row, class Place>
SIMT_DEVICE void copy_rows(Row* to, const void* from, int n_rows, int row_bytes, int at, const Place& place) {
  for (int i = int(threadIdx.x); i < kRows * kPieces; i += kThreads) {
    const int row = i / kPieces, piece = i % kPieces * 16;
    const bool inside = row < n_rows && at + piece < row_bytes;
    const auto* data = static_cast<const unsigned char*>(from);
    simt::cp_async16(to[place(row)] + piece, data + (inside ? row * row_bytes + at + piece : 0), inside ? 16 : 0);
  }
}

// Where a warp and its lanes are in a block's 64 x 256.
struct WarpPlace {
  int top = int(threadIdx.x) / 32 / kWarpsAcross * kWarpWords, across = int(threadIdx.x) / 32 % kWarpsAcross;
  int lane = int(threadIdx.x) % 32, matrix = lane / 8, row = lane % 8, t = lane % 4;

  // A lane's row of four: 16 vectors apart, then 8.
  SIMT_DEVICE int word(int i, int half) const { return top + i * 16 + half * 8 + lane / 4; }
  SIMT_DEVICE int column() const { return across * kWarpColumns + t * 16; }  // the first of a lane's 16
  template <class Row>
  SIMT_DEVICE void load_rows(const Row* rows, int i, int step, uint32_t (&out)[4]) const {
    simt::ldmatrix_x4(out, rows[top + i * 16 + matrix % 2 * 8 + row] + (step * 2 + matrix / 2) * 16);
  }
  template <class Row>
  SIMT_DEVICE void load_columns(const Row* columns, int j, int step, uint32_t (&out)[4]) const {
    simt::ldmatrix_x4(out,
                      columns[across * kWarpColumns + j * 16 + matrix / 2 * 8 + row] + (step * 2 + matrix % 2) * 16);
  }
};
using Sums = float[2][8][4];

template <class T>
SIMT_DEVICE void multiply_chunk(const WarpPlace& warp, const ChunkRow* rows, const ChunkRow* columns, Sums& sums) {
  for (int step = 0; step < kChunk / 16; step++) {
    uint32_t a[2][4];
    for (int i = 0; i < 2; i++) warp.load_rows(rows, i, step, a[i]);
    for (int j = 0; j < 4; j++) {
      uint32_t b[4];
      warp.load_columns(columns, j, step, b);
      for (int i = 0; i < 2; i++)
        for (int k = 0; k < 2; k++) multiply_add(T(), sums[i][j * 2 + k], a[i], {b[k * 2], b[k * 2 + 1]});
    }
  }
}

// A block's words: of a list, from its `first` on.
struct Words {
  int list, image, first, n;

  SIMT_DEVICE Words(const AttendedContexts& of, int64_t number) {
    const int tiles = (of.length + kWords - 1) / kWords;
    list = int(number / tiles);
    first = int(number % tiles) * kWords;
    n = of.length - first < kWords ? of.length - first : kWords;
    image = of.images == nullptr ? list : int(__ldg(of.images + list));
  }
  // Its place among all lists' words.
  SIMT_DEVICE int64_t place(const AttendedContexts& of, int word) const {
    return int64_t(list) * of.length + first + word;
  }
  // Its number in the batch; -1: none.
  SIMT_DEVICE int number(const AttendedContexts& of, int word) const {
    if (word >= n) return -1;
    return of.numbers == nullptr ? first + word : int(__ldg(of.numbers + place(of, word)));
  }
};

SIMT_DEVICE void copy_weights(const AttendedContexts& of, const Words& words, RegionRow* to) {
  const auto* weights = static_cast<const unsigned char*>(of.weights) + words.place(of, 0) * of.pitch * 2;
  copy_rows<kWords, kAttendedRegions / 8>(to, weights, words.n, of.pitch * 2, 0, in_order);
}
SIMT_DEVICE const unsigned char* regions_of(const AttendedContexts& of, const Words& words, int dim) {
  return static_cast<const unsigned char*>(of.regions) + (int64_t(words.image) * of.dim + dim) * of.pitch * 2;
}

struct VectorsShared {
  RegionRow weights[kWords];
  ChunkRow squares[kWords];
  struct {
    ChunkRow words[kWords], columns[kColumns];
    RegionRow regions[kChunk];
  } stages[2];
  float sums[kWarpsAcross][kWords];
};

static_assert(sizeof(VectorsShared) <= 81 * 1024);  // twice on an A100, with what a block reserves

// (u - word)^2 of a chunk: a warp makes 32 words by 8 numbers. Difference and square are rounded once each.
template <class T>
SIMT_DEVICE void make_squares(const WarpPlace& warp, int pitch, const RegionRow* weights, const RegionRow* regions,
                              const ChunkRow* words, ChunkRow* squares) {
  float contexts[2][4] = {};
  for (int step = 0; step < pitch / 16; step++) {
    uint32_t b[2];
    simt::ldmatrix_x2(b, regions[warp.across * 8 + warp.row] + (step * 2 + warp.matrix % 2) * 16);
    for (int i = 0; i < 2; i++) {
      uint32_t a[4];
      warp.load_rows(weights, i, step, a);
      multiply_add(T(), contexts[i], a, b);
    }
  }
  const int at = (warp.across * 8 + warp.t * 2) * 2;
  for (int i = 0; i < 2; i++)
    for (int half = 0; half < 2; half++) {
      const int word = warp.word(i, half);
      const auto given = *reinterpret_cast<const Two<T>*>(words[word] + at);
      Two<T> square;
      for (int k = 0; k < 2; k++) {
        const float difference = rounded<T>(contexts[i][half * 2 + k] - widened(given.x[k]));
        narrow(difference * difference, square.x[k]);
      }
      *reinterpret_cast<Two<T>*>(squares[word] + at) = square;
    }
}

template <class T>
SIMT_KERNEL(kThreads, 2)
vectors_kernel(AttendedVectorsArgs args) {
  if (!SIMT_IS_SINCE_AMPERE) return;
  auto& shared = simt::shared<VectorsShared>();
  const AttendedContexts& of = args.of;
  const Words words(of, blockIdx.x);
  if (words.number(of, 0) < 0) return;  // nothing behind it either
  const WarpPlace warp;
  // A thread copies the same 16 bytes of a word's row in every chunk.
  static_assert(kWords * kChunk * 2 == kThreads * 16);
  const int row = int(threadIdx.x) / 4, within = int(threadIdx.x) % 4 * 8;
  const int number = words.number(of, row);
  auto start = [&](int chunk) {
    auto& stage = shared.stages[chunk % 2];
    const int at = chunk * kChunk, left = of.dim - at;
    const bool inside = number >= 0 && within < left;
    const int64_t from = inside ? int64_t(number) * of.dim + at + within : 0;
    simt::cp_async16(stage.words[row] + within * 2, static_cast<const T*>(of.words) + from, inside ? 16 : 0);
    copy_rows<kColumns, 4>(stage.columns, args.weight, args.width, of.dim * 2, at * 2, place_of);
    copy_rows<kChunk, kAttendedRegions / 8>(stage.regions, regions_of(of, words, at), left, of.pitch * 2, 0, in_order);
  };
  copy_weights(of, words, shared.weights);
  start(0);
  simt::cp_async_commit();
  Sums sums = {};
  const int n_chunks = (of.dim + kChunk - 1) / kChunk;
#pragma unroll 1
  for (int chunk = 0; chunk < n_chunks; chunk++) {
    BUG == 85 ? simt::cp_async_wait<1>() : simt::cp_async_wait<0>();
    SYNC(81);  // everyone's copies of this chunk have arrived, and nobody reads the one before it, nor its squares
    if (chunk + 1 < n_chunks) start(chunk + 1);
    simt::cp_async_commit();
    auto& stage = shared.stages[chunk % 2];
    make_squares<T>(warp, of.pitch, shared.weights, stage.regions, stage.words, shared.squares);
    SYNC(82);
    if (warp.across * kWarpColumns < args.width) multiply_chunk<T>(warp, shared.squares, stage.columns, sums);
  }

  // Columns beyond the width are 0, and count nothing.
  const int column = warp.column();
  const T* bias = static_cast<const T*>(args.bias) + column;
  for (int piece = 0; piece < 2; piece++) {
    if (column + piece * 8 >= args.width) continue;
    const auto added = *reinterpret_cast<const Eight<T>*>(bias + piece * 8);
    for (int i = 0; i < 2; i++)
      for (int half = 0; half < 2; half++)
        for (int k = 0; k < 8; k++) sums[i][piece * 4 + k / 2][half * 2 + k % 2] += widened(added.x[k]);
  }
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float square = 0;
      for (int j = 0; j < 8; j++)
        for (int k = 0; k < 2; k++) square += sums[i][j][half * 2 + k] * sums[i][j][half * 2 + k];
      square = simt::group_sum(square, 4);
      if (warp.t == 0) shared.sums[warp.across][warp.word(i, half)] = square;
    }
  SYNC(83);
  int tile = int(blockIdx.x);
  simt::make_anew(tile);
  const Words written(of, tile);
#pragma unroll
  for (int i = 0; i < 2; i++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int word = warp.word(i, half);
      if (written.number(of, word) < 0) continue;
      float square = 0;
      for (int across = 0; across < kWarpsAcross; across++) square += shared.sums[across][word];
      const float length = sqrtf(square), inverse = 1.0f / (length + kEpsilonOfLength);
      const int64_t place = written.place(of, word), vector = of.vectors == nullptr ? place : __ldg(of.vectors + place);
      if (column == 0) args.lengths[vector] = length;
      T* to = static_cast<T*>(args.units) + vector * args.width + column;
      for (int piece = 0; piece < 2; piece++) {
        if (column + piece * 8 >= args.width) continue;
        Eight<T> unit;
        for (int k = 0; k < 8; k++) narrow(sums[i][piece * 4 + k / 2][half * 2 + k % 2] * inverse, unit.x[k]);
        *reinterpret_cast<Eight<T>*>(to + piece * 8) = unit;
      }
    }
}

// A warp a vector, eight numbers a lane.
template <class T>
SIMT_KERNEL(kThreads, 4)
rows_kernel(AttendedRowsArgs args) {
  if (!SIMT_IS_SINCE_AMPERE) return;
  const int64_t row = int64_t(blockIdx.x) * (kThreads / 32) + int(threadIdx.x) / 32;
  if (row >= args.n_rows) return;
  const int64_t v = args.vectors == nullptr ? row : __ldg(args.vectors + row);
  const int lane = int(threadIdx.x) % 32;
  const bool inside = lane * 8 < args.width;
  Eight<T> grad = {}, unit;
  T* to = static_cast<T*>(args.rows) + row * args.width + lane * 8;
  if (v < 0) {
    if (inside) *reinterpret_cast<Eight<T>*>(to) = grad;
    return;
  }
  const int64_t at = v * args.width + lane * 8;
  float along = 0;
  if (inside) {
    grad = *reinterpret_cast<const Eight<T>*>(static_cast<const T*>(args.grad) + at);
    unit = *reinterpret_cast<const Eight<T>*>(static_cast<const T*>(args.units) + at);
    for (int k = 0; k < 8; k++) along += widened(grad.x[k]) * widened(unit.x[k]);
  }
  along = simt::group_sum(along, 32);
  const float length = args.lengths[v], more = length + kEpsilonOfLength;
  const float of_unit = along * (more / length);
  if (!inside) return;
  for (int k = 0; k < 8; k++)
    narrow(length == 0.0f ? 0.0f : (widened(grad.x[k]) - widened(unit.x[k]) * of_unit) / more, grad.x[k]);
  *reinterpret_cast<Eight<T>*>(to) = grad;
}

struct GradientsShared {
  RegionRow weights[kWords];
  union {
    struct {
      ChunkRow rows[kWords], columns[kColumns];
    } stages[2];
    RegionRow regions[kColumns];
  };
};

static_assert(sizeof(GradientsShared) <= 81 * 1024);

// Eight numbers of a lane of one word, from column `at` on: the difference's gradient, and its square; 0 of none.
template <class T>
SIMT_DEVICE void write_differences(const AttendedGradientsArgs& args, const float (&contexts)[4][4],
                                   const float (&sums)[8][4], int first_sum, int half, int word, int64_t place,
                                   int at) {
  Eight<T> gradient = {}, square = {}, given;
  if (word >= 0)
    given = *reinterpret_cast<const Eight<T>*>(static_cast<const T*>(args.of.words) + int64_t(word) * args.of.dim + at);
  for (int k = 0; k < 8 && word >= 0; k++) {
    const int j = k / 2, number = half * 2 + k % 2;
    const float difference = rounded<T>(contexts[j][number] - widened(given.x[k]));
    narrow(2.0f * sums[first_sum + j][number] * difference, gradient.x[k]);
    narrow(difference * difference, square.x[k]);
  }
  *reinterpret_cast<Eight<T>*>(static_cast<T*>(args.differences) + place * args.of.dim + at) = gradient;
  *reinterpret_cast<Eight<T>*>(static_cast<T*>(args.squares) + place * args.of.dim + at) = square;
}

template <class T>
SIMT_KERNEL(kThreads, 2)
gradients_kernel(AttendedGradientsArgs args) {
  if (!SIMT_IS_SINCE_AMPERE) return;
  auto& shared = simt::shared<GradientsShared>();
  const AttendedContexts& of = args.of;
  const int across = (of.dim + kColumns - 1) / kColumns;
  const Words words(of, blockIdx.x / across);
  const int first_column = int(blockIdx.x % across) * kColumns, n_columns = of.dim - first_column;
  const WarpPlace warp;
  const bool active = warp.across * kWarpColumns < n_columns;
  const auto* rows = static_cast<const unsigned char*>(args.rows) + words.place(of, 0) * args.width * 2;
  const auto* columns = static_cast<const unsigned char*>(args.weight) + int64_t(first_column) * args.width * 2;
  auto start = [&](int chunk) {
    auto& stage = shared.stages[chunk % 2];
    const int at = chunk * kChunk * 2;
    copy_rows<kWords, 4>(stage.rows, rows, words.n, args.width * 2, at, in_order);
    copy_rows<kColumns, 4>(stage.columns, columns, n_columns, args.width * 2, at, place_of);
  };
  copy_weights(of, words, shared.weights);
  start(0);
  simt::cp_async_commit();
  Sums sums = {};
  const int n_chunks = (args.width + kChunk - 1) / kChunk;
#pragma unroll 1
  for (int chunk = 0; chunk < n_chunks; chunk++) {
    BUG == 94 ? simt::cp_async_wait<1>() : simt::cp_async_wait<0>();
    SYNC(91);  // everyone's copies of this chunk have arrived, and nobody reads the one before it
    if (chunk + 1 < n_chunks) start(chunk + 1);
    simt::cp_async_commit();
    if (active) multiply_chunk<T>(warp, shared.stages[chunk % 2].rows, shared.stages[chunk % 2].columns, sums);
  }
  SYNC(92);  // the stages become the regions
  copy_rows<kColumns, kAttendedRegions / 8>(shared.regions, regions_of(of, words, first_column), n_columns,
                                            of.pitch * 2, 0, place_of);
  simt::cp_async_commit();
  simt::cp_async_wait<0>();
  SYNC(93);
  if (!active) return;
#pragma unroll
  for (int piece = 0; piece < 2; piece++) {  // of a lane's 16 columns
    const int at = first_column + warp.column() + piece * 8;
#pragma unroll
    for (int i = 0; i < 2; i++) {
      float contexts[4][4] = {};
#pragma unroll 1
      for (int step = 0; step < of.pitch / 16; step++) {
        uint32_t a[4];
        warp.load_rows(shared.weights, i, step, a);
        for (int j = 0; j < 2; j++) {
          uint32_t b[4];
          warp.load_columns(shared.regions, piece * 2 + j, step, b);
          for (int k = 0; k < 2; k++) multiply_add(T(), contexts[j * 2 + k], a, {b[k * 2], b[k * 2 + 1]});
        }
      }
      for (int half = 0; half < 2; half++) {
        const int word = warp.word(i, half);
        if (word < words.n && at < of.dim)
          write_differences<T>(args, contexts, sums[i], piece * 4, half, words.number(of, word), words.place(of, word),
                               at);
      }
    }
  }
}

// A warp a word and 256 numbers of it, eight a lane.
template <class T>
SIMT_KERNEL(kThreads, 4)
words_kernel(AttendedWordsArgs args) {
  if (!SIMT_IS_SINCE_AMPERE) return;
  const int across = (args.dim + kColumns - 1) / kColumns;
  const int64_t number = int64_t(blockIdx.x) * (kThreads / 32) + int(threadIdx.x) / 32, word = number / across;
  const int at = int(number % across) * kColumns + int(threadIdx.x) % 32 * 8;
  if (word >= args.n_words || at >= args.dim) return;
  const int64_t begin = __ldg(args.bounds + word), end = __ldg(args.bounds + word + 1);
  if (begin == end) return;
  float sums[8] = {};
#pragma unroll 4
  for (int64_t step = begin; step < end; step++) {
    const T* from = static_cast<const T*>(args.differences) + __ldg(args.vectors + step) * args.dim + at;
    const auto of = *reinterpret_cast<const Eight<T>*>(from);
    for (int k = 0; k < 8; k++) sums[k] += widened(of.x[k]);
  }
  float* to = args.sums + word * args.dim + at;
  for (int k = 0; k < 8; k += 4) {
    const float4 old = simt::load16(to + k);
    simt::store16(float4{old.x - sums[k], old.y - sums[k + 1], old.z - sums[k + 2], old.w - sums[k + 3]}, to + k);
  }
}

int64_t tiles_of(const AttendedContexts& of) { return int64_t(of.n_lists) * ((of.length + kWords - 1) / kWords); }

template <class T>
void launch(const AttendedVectorsArgs& args, void* stream) {
  SIMT_LAUNCH(vectors_kernel<T>, dim3(unsigned(tiles_of(args.of))), dim3(kThreads), sizeof(VectorsShared), stream,
              args);
}
template <class T>
void launch(const AttendedRowsArgs& args, void* stream) {
  constexpr int kVectors = kThreads / 32;
  SIMT_LAUNCH(rows_kernel<T>, dim3(unsigned((args.n_rows + kVectors - 1) / kVectors)), dim3(kThreads), 0, stream, args);
}
template <class T>
void launch(const AttendedGradientsArgs& args, void* stream) {
  const int64_t across = (args.of.dim + kColumns - 1) / kColumns;
  SIMT_LAUNCH(gradients_kernel<T>, dim3(unsigned(tiles_of(args.of) * across)), dim3(kThreads), sizeof(GradientsShared),
              stream, args);
}
template <class T>
void launch(const AttendedWordsArgs& args, void* stream) {
  constexpr int kWarps = kThreads / 32;
  const int64_t warps = args.n_words * ((args.dim + kColumns - 1) / kColumns);
  SIMT_LAUNCH(words_kernel<T>, dim3(unsigned((warps + kWarps - 1) / kWarps)), dim3(kThreads), 0, stream, args);
}
template <class Args>
void launch_as(const Args& args, Number number, void* stream) {
  number == Number::kBf16 ? launch<simt::bf16>(args, stream) : launch<simt::f16>(args, stream);
}

}  // namespace

void attended_vectors(const AttendedVectorsArgs& args, Number number, void* stream) { launch_as(args, number, stream); }
void attended_rows(const AttendedRowsArgs& args, Number number, void* stream) { launch_as(args, number, stream); }
void attended_gradients(const AttendedGradientsArgs& args, Number number, void* stream) {
  launch_as(args, number, stream);
}
void attended_words(const AttendedWordsArgs& args, Number number, void* stream) { launch_as(args, number, stream); }

}  // namespace itm::cuda
