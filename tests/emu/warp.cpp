// What a warp's lanes compute together: shuffles, votes, matrix loads, matrix products. Layouts: PTX ISA, mma.m16n8k16,
// mma.m16n8k8, ldmatrix.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "machine.h"

namespace simt {

float to_float(f16 x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000u) << 16;
  const uint32_t exponent = x.bits >> 10 & 31u, mantissa = x.bits & 1023u;
  if (exponent == 0) return __uint_as_float(sign) + (sign != 0 ? -0x1p-24f : 0x1p-24f) * float(mantissa);
  return __uint_as_float(sign | (exponent == 31 ? 255u : exponent + 112u) << 23 | mantissa << 13);
}

f16 to_f16(float x) {  // to nearest, ties to even
  const uint16_t sign = uint16_t(__float_as_uint(x) >> 16 & 0x8000u);
  const float magnitude = std::fabs(x);
  if (std::isnan(x)) return {0x7fff};
  if (magnitude >= 65520.0f) return {uint16_t(sign | 0x7c00u)};
  int exponent = 0;
  std::frexp(magnitude, &exponent);
  const int step = std::max(exponent - 11, -24);  // the last bit is worth 2^step
  const auto units = uint32_t(std::nearbyint(std::ldexp(magnitude, -step)));
  // units has 11 bits unless the number is subnormal; rounding up to 2^11 carries into the exponent by itself.
  return {uint16_t(sign | (magnitude == 0 ? 0u : uint32_t(step + 24) * 1024u + units))};
}

}  // namespace simt

namespace emu {

template <class T>
static T& posted_by(void* const* posted, int lane) {
  return *static_cast<T*>(posted[lane]);
}

void combine_shuffles(void* const* posted, unsigned mask) {
  for (int lane = 0; lane < 32; lane++) {
    if (!(mask >> lane & 1)) continue;
    auto& mine = posted_by<Shuffle>(posted, lane);
    if (!(mask >> mine.source & 1)) fail("a shuffle reads from a lane outside its mask");
    mine.result = posted_by<Shuffle>(posted, mine.source).bits;
  }
}

void combine_votes(void* const* posted, unsigned mask) {
  unsigned ballot = 0;
  for (int lane = 0; lane < 32; lane++)
    if ((mask >> lane & 1) && posted_by<Vote>(posted, lane).predicate != 0) ballot |= 1u << lane;
  for (int lane = 0; lane < 32; lane++)
    if (mask >> lane & 1) posted_by<Vote>(posted, lane).ballot = ballot;
}

void combine_matrix_loads(void* const* posted, unsigned mask) {
  if (mask != ~0u) fail("ldmatrix needs all 32 lanes of the warp");
  Block& block = *machine.running->block;
  const auto& first = posted_by<LoadMatrix>(posted, 0);
  for (int matrix = 0; matrix < first.matrices; matrix++) {
    const void* rows[8];
    for (int row = 0; row < 8; row++) rows[row] = posted_by<LoadMatrix>(posted, matrix * 8 + row).row;
    if (machine.options.count_traffic) count_matrix_load(rows);
    for (int row = 0; row < 8; row++) {
      const int giver = matrix * 8 + row;
      const auto* numbers = static_cast<const char*>(posted_by<LoadMatrix>(posted, giver).row);
      if (uintptr_t(numbers) % 16 != 0) fail("an ldmatrix row is not aligned to 16 bytes");
      if (!in_shared(block, numbers, 16)) fail("an ldmatrix row is outside shared memory");
      if (machine.options.check_races)
        note_shared(*block.threads[machine.running->view.warp * 32 + unsigned(giver)], numbers, 16, false, nullptr);
      for (int column = 0; column < 8; column++) {
        // Lane 4 i + j holds numbers (i, 2 j) and (i, 2 j + 1); transposed (2 j, i) and (2 j + 1, i).
        const int i = first.transposed ? column : row, j = first.transposed ? row : column;
        std::memcpy(reinterpret_cast<char*>(&posted_by<LoadMatrix>(posted, i * 4 + j / 2).out[matrix]) + j % 2 * 2,
                    numbers + column * 2, 2);
      }
    }
  }
}

static float number_of(Number type, uint32_t word, int half) {
  if (type == Number::kTf32) return __uint_as_float(word & 0xffffe000u);  // the unit reads no lower bits
  const auto bits = uint16_t(half != 0 ? word >> 16 : word);
  return type == Number::kBf16 ? simt::to_float(simt::bf16{bits}) : simt::to_float(simt::f16{bits});
}

// A tensor core's sum at its worst: what lies more than 24 bits below the largest summand is cut off, before and after
// adding.
static float cut_sum(float sum, const float* a, const float* b, int k) {
  double largest = std::abs(double(sum));
  for (int l = 0; l < k; l++) largest = std::max(largest, std::abs(double(a[l]) * b[l]));
  if (!(largest > 0) || std::isinf(largest)) {  // nothing to cut, or NaN and infinity
    for (int l = 0; l < k; l++) sum += a[l] * b[l];
    return sum;
  }
  const double step = std::ldexp(1.0, std::ilogb(largest) - 24);
  double total = std::trunc(sum / step) * step;
  for (int l = 0; l < k; l++) total += std::trunc(double(a[l]) * b[l] / step) * step;
  const auto rounded = float(total);
  return std::abs(double(rounded)) > std::abs(total) ? std::nextafterf(rounded, 0.0f) : rounded;
}

void combine_matrix_products(void* const* posted, unsigned mask) {
  if (mask != ~0u) fail("mma needs all 32 lanes of the warp");
  machine.statistics.matrix_products++;
  const Number type = posted_by<MatrixProduct>(posted, 0).number;
  const int k = type == Number::kTf32 ? 8 : 16, halves = type == Number::kTf32 ? 1 : 2;
  float a[16][16] = {}, b[16][8] = {}, d[16][8];
  for (int lane = 0; lane < 32; lane++) {
    const auto& mine = posted_by<MatrixProduct>(posted, lane);
    const int group = lane / 4, place = lane % 4;
    for (int h = 0; h < halves; h++) {
      const int column = place * halves + h;
      a[group][column] = number_of(type, mine.a[0], h);
      a[group + 8][column] = number_of(type, mine.a[1], h);
      a[group][column + k / 2] = number_of(type, mine.a[2], h);
      a[group + 8][column + k / 2] = number_of(type, mine.a[3], h);
      b[column][group] = number_of(type, mine.b[0], h);
      b[column + k / 2][group] = number_of(type, mine.b[1], h);
    }
    for (int h = 0; h < 2; h++) {
      d[group][place * 2 + h] = mine.d[h];
      d[group + 8][place * 2 + h] = mine.d[2 + h];
    }
  }
  for (int i = 0; i < 16 && !machine.pessimistic; i++)
    for (int l = 0; l < k; l++)
      for (int j = 0; j < 8; j++) d[i][j] += a[i][l] * b[l][j];
  for (int j = 0; j < 8 && machine.pessimistic; j++) {
    float column[16];
    for (int l = 0; l < k; l++) column[l] = b[l][j];
    for (int i = 0; i < 16; i++) d[i][j] = cut_sum(d[i][j], a[i], column, k);
  }
  for (int lane = 0; lane < 32; lane++) {
    const auto& mine = posted_by<MatrixProduct>(posted, lane);
    const int group = lane / 4, place = lane % 4;
    for (int h = 0; h < 2; h++) {
      mine.d[h] = d[group][place * 2 + h];
      mine.d[2 + h] = d[group + 8][place * 2 + h];
    }
  }
}

}  // namespace emu
