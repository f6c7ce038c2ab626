// to [columns, rows] = transpose of from [rows, columns]
template <class T>
void turn_block(int64_t rows, int64_t columns, const T* from, int64_t from_stride, T* to, int64_t to_stride) {
  const int64_t fours = rows / 4 * 4, whole = columns / 4 * 4;
  for (int64_t r = 0; r < fours; r += 4) {
    const T* row = from + r * from_stride;
    auto at = [&](int64_t i, int64_t c) { return row + i * from_stride + c; };
    for (int64_t c = 0; c < whole; c += 4)
      turn_four(at(0, c), at(1, c), at(2, c), at(3, c), to + c * to_stride + r, to_stride);
    for (int64_t c = whole; c < columns; c++)
      for (int64_t i = 0; i < 4; i++) to[c * to_stride + r + i] = *at(i, c);
  }
  for (int64_t r = fours; r < rows; r++)
    for (int64_t c = 0; c < columns; c++) to[c * to_stride + r] = from[r * from_stride + c];
}

template void turn_block<float>(int64_t, int64_t, const float*, int64_t, float*, int64_t);
template void turn_block<double>(int64_t, int64_t, const double*, int64_t, double*, int64_t);
