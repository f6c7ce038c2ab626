// to [columns, rows] = transpose of from [rows, columns]
template <class T>
void turn_block(int64_t rows, int64_t columns, const T* from, int64_t from_stride, T* to, int64_t to_stride) {
  constexpr int64_t side = 16;
  for (int64_t c0 = 0; c0 < columns; c0 += side)
    for (int64_t r0 = 0; r0 < rows; r0 += side)
      for (int64_t c = c0; c < std::min(columns, c0 + side); c++)
        for (int64_t r = r0; r < std::min(rows, r0 + side); r++) to[c * to_stride + r] = from[r * from_stride + c];
}

template void turn_block<float>(int64_t, int64_t, const float*, int64_t, float*, int64_t);
template void turn_block<double>(int64_t, int64_t, const double*, int64_t, double*, int64_t);
