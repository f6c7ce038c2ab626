// to [columns, rows] = transpose of from [rows, columns]
template <class T>
void turn_block(int64_t rows, int64_t columns, const T* from, int64_t from_stride, T* to, int64_t to_stride) {
  attended_similarity_impl::transpose<T>(rows, columns, from, from_stride, to, to_stride);
}

template void turn_block<float>(int64_t, int64_t, const float*, int64_t, float*, int64_t);
template void turn_block<double>(int64_t, int64_t, const double*, int64_t, double*, int64_t);
