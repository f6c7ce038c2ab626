// Ranks by counting, top-k lists by a threshold that few scores pass. Reads every score once or twice; neither sorts.

template <class T>
ITM_INLINE bool any_lane(Mask<T> mask) {
  typedef int64_t Wide __attribute__((vector_size(VEC_BYTES)));
  const Wide wide = (Wide)mask;
  int64_t any = 0;
  for (int64_t i = 0; i < VEC_BYTES / 8; i++) any |= wide[i];
  return any != 0;
}

template <class T>
bool nan_in_rows(const ScoreTile<T>& tile, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row++) {
    const T* scores = tile.scores + row * tile.stride;
    Mask<T> nan{};
    int64_t i = 0;
    for (; i + kLanes<T> <= tile.columns; i += kLanes<T>) {
      const Vec<T> x = load(scores + i);
      nan |= x != x;
    }
    bool found = any_lane<T>(nan);
    for (; i < tile.columns; i++) found |= scores[i] != scores[i];
    if (found) return true;
  }
  return false;
}

template <class T>
ITM_INLINE int64_t sum_of_mask(Mask<T> counts) {
  int64_t sum = 0;
  for (int64_t i = 0; i < kLanes<T>; i++) sum += counts[i];
  return sum;
}

// How many of n scores are above a threshold, and how many at least it.
struct Passed {
  int64_t above, at_least;
};
template <class T>
ITM_INLINE Passed count_passed(const T* scores, int64_t n, T threshold) {
  const Vec<T> limit = splat(threshold);
  Mask<T> above{}, at_least{};
  int64_t i = 0;
  for (; i + kLanes<T> <= n; i += kLanes<T>) {
    const Vec<T> x = load(scores + i);
    above -= x > limit;
    at_least -= x >= limit;
  }
  Passed passed{sum_of_mask<T>(above), sum_of_mask<T>(at_least)};
  for (; i < n; i++) {
    passed.above += scores[i] > threshold;
    passed.at_least += scores[i] >= threshold;
  }
  return passed;
}

template <class T>
ITM_INLINE bool comes_before(T score, int64_t item, T other_score, int64_t other_item) {
  return score > other_score || (score == other_score && item < other_item);
}

// Takes back what a query's own positives were counted for.
template <class T>
ITM_INLINE void discount_positives(const ScoreTile<T>& tile, const RankCounts<T>& ranks, int64_t query, int64_t n_items,
                                   const T* scores, int64_t step) {
  const int64_t* index = ranks.index + query * ranks.slots;
  const T* limits = ranks.scores + query * ranks.slots;
  const int64_t slots = ranks.n_slots[query];
  for (int64_t own = 0; own < slots; own++) {
    const int64_t at = index[own] - tile.first_item;
    if (at < 0 || at >= n_items) continue;
    const T score = scores[at * step];
    ranks.n_above[query] -= score > limits[0];
    ranks.n_at_least[query] -= score >= limits[0];
    for (int64_t p = 0; p < slots; p++)
      ranks.n_before[query * ranks.slots + p] -= comes_before(score, index[own], limits[p], index[p]);
  }
}

template <class T>
void count_rows(const ScoreTile<T>& tile, const RankCounts<T>& ranks, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row++) {
    const int64_t query = tile.first_query + row, slots = ranks.n_slots[query];
    const T* scores = tile.scores + row * tile.stride;
    constexpr int64_t run = 4096;  // of a row at a time: it stays in the first cache while all positives look at it
    for (int64_t left = 0; left < tile.columns; left += run) {
      const int64_t width = tile.columns - left < run ? tile.columns - left : run;
      for (int64_t p = 0; p < slots; p++) {
        const T limit = ranks.scores[query * ranks.slots + p];
        const int64_t at = ranks.index[query * ranks.slots + p] - tile.first_item - left;
        const int64_t lower = at < 0 ? 0 : at > width ? width : at;  // items of lower index than the positive
        const Passed low = count_passed(scores + left, lower, limit);
        const Passed high = count_passed(scores + left + lower, width - lower, limit);
        ranks.n_before[query * ranks.slots + p] += low.at_least + high.above;
        if (p > 0) continue;
        ranks.n_above[query] += low.above + high.above;
        ranks.n_at_least[query] += low.at_least + high.at_least;
      }
    }
    if (slots > 0) discount_positives(tile, ranks, query, tile.columns, scores, 1);
  }
}

// One positive of each of some columns: its score, how many rows of the tile have a lower index, what came before it.
template <class T>
struct ColumnCounts {
  T limit[kColumnQueries];
  Lane<T> lower[kColumnQueries], above[kColumnQueries], at_least[kColumnQueries], before[kColumnQueries];
};

// Columns i ... i + kVectors kLanes - 1, whose counts stay in registers. Only the best positive is asked for all three.
template <bool kIsBest, int kVectors, class T>
ITM_INLINE void count_lanes(const ScoreTile<T>& tile, int64_t first, int64_t last, int64_t begin, int64_t i,
                            ColumnCounts<T>& counts) {
  Vec<T> limit[kVectors];
  Mask<T> lower[kVectors], above[kVectors], at_least[kVectors], before[kVectors];
  for (int v = 0; v < kVectors; v++) {
    const int64_t at = i + v * kLanes<T>;
    limit[v] = load(counts.limit + at);
    lower[v] = load_mask<T>(counts.lower + at);
    above[v] = load_mask<T>(counts.above + at);
    at_least[v] = load_mask<T>(counts.at_least + at);
    before[v] = load_mask<T>(counts.before + at);
  }
  for (int64_t row = first; row < last; row++) {
    const T* scores = tile.scores + row * tile.stride + begin + i;
    const Mask<T> here = Mask<T>{} + Lane<T>(row);
    for (int v = 0; v < kVectors; v++) {
      const Vec<T> x = load(scores + v * kLanes<T>);
      const Mask<T> is_above = x > limit[v], is_at_least = x >= limit[v];
      before[v] -= is_above | (is_at_least & (here < lower[v]));
      if constexpr (kIsBest) {
        above[v] -= is_above;
        at_least[v] -= is_at_least;
      }
    }
  }
  for (int v = 0; v < kVectors; v++) {
    const int64_t at = i + v * kLanes<T>;
    store_mask<T>(counts.before + at, before[v]);
    store_mask<T>(counts.above + at, above[v]);
    store_mask<T>(counts.at_least + at, at_least[v]);
  }
}

template <bool kIsBest, class T>
void count_positives(const ScoreTile<T>& tile, int64_t first, int64_t last, int64_t begin, int64_t n,
                     ColumnCounts<T>& counts) {
  constexpr int kVectors = 2;
  int64_t i = 0;
  for (; i + kVectors * kLanes<T> <= n; i += kVectors * kLanes<T>)
    count_lanes<kIsBest, kVectors>(tile, first, last, begin, i, counts);
  for (; i + kLanes<T> <= n; i += kLanes<T>) count_lanes<kIsBest, 1>(tile, first, last, begin, i, counts);
  for (; i < n; i++)
    for (int64_t row = first; row < last; row++) {
      const T score = tile.scores[row * tile.stride + begin + i], limit = counts.limit[i];
      counts.above[i] += score > limit;
      counts.at_least[i] += score >= limit;
      counts.before[i] += score > limit || (score == limit && row < counts.lower[i]);
    }
}

template <class T>
void count_columns(const ScoreTile<T>& tile, const RankCounts<T>& ranks, int64_t begin, int64_t end) {
  constexpr int64_t rows_at_once = 32;  // their pages and numbers stay at hand while several positives look at them
  constexpr int64_t positives_at_once = 8;
  const int64_t n = end - begin;
  int64_t most = 0;
  for (int64_t i = 0; i < n; i++) {
    const int64_t slots = ranks.n_slots[tile.first_query + begin + i];
    most = slots > most ? slots : most;
  }
  ColumnCounts<T> counts[positives_at_once];
  for (int64_t p0 = 0; p0 < most; p0 += positives_at_once) {
    const int64_t n_positives = std::min(positives_at_once, most - p0);
    for (int64_t p = 0; p < n_positives; p++)
      for (int64_t i = 0; i < n; i++) {
        const int64_t query = tile.first_query + begin + i, slot = query * ranks.slots + p0 + p;
        const bool used = p0 + p < ranks.n_slots[query];
        const int64_t at = used ? ranks.index[slot] - tile.first_item : 0;
        counts[p].limit[i] = used ? ranks.scores[slot] : T(0);
        counts[p].lower[i] = Lane<T>(at < 0 ? 0 : at > tile.rows ? tile.rows : at);
        counts[p].above[i] = counts[p].at_least[i] = counts[p].before[i] = 0;
      }
    for (int64_t first = 0; first < tile.rows; first += rows_at_once) {
      const int64_t last = std::min(first + rows_at_once, tile.rows);
      for (int64_t p = 0; p < n_positives; p++)
        if (p0 + p == 0)
          count_positives<true>(tile, first, last, begin, n, counts[p]);
        else
          count_positives<false>(tile, first, last, begin, n, counts[p]);
    }
    for (int64_t i = 0; i < n; i++) {
      const int64_t query = tile.first_query + begin + i, slots = ranks.n_slots[query];
      for (int64_t p = 0; p < n_positives && p0 + p < slots; p++)
        ranks.n_before[query * ranks.slots + p0 + p] += counts[p].before[i];
      if (p0 > 0 || slots == 0) continue;
      ranks.n_above[query] += counts[0].above[i];
      ranks.n_at_least[query] += counts[0].at_least[i];
    }
  }
  for (int64_t i = begin; i < end; i++)
    discount_positives(tile, ranks, tile.first_query + i, tile.rows, tile.scores + i, tile.stride);
}

// Replaces the worst of k by (score, item) if that comes before it.
template <class T>
ITM_INLINE void offer(T* values, int64_t* indices, int64_t k, T score, int64_t item) {
  if (!comes_before(score, item, values[0], indices[0])) return;
  int64_t at = 0;
  while (true) {
    int64_t child = 2 * at + 1;
    if (child >= k) break;
    if (child + 1 < k && comes_before(values[child], indices[child], values[child + 1], indices[child + 1])) child++;
    if (!comes_before(score, item, values[child], indices[child])) break;  // the child is better: stop above it
    values[at] = values[child];
    indices[at] = indices[child];
    at = child;
  }
  values[at] = score;
  indices[at] = item;
}

template <class T>
void keep_rows(const ScoreTile<T>& tile, const TopK<T>& top, int64_t begin, int64_t end) {
  constexpr int64_t step = 4 * kLanes<T>;
  for (int64_t row = begin; row < end; row++) {
    const int64_t query = tile.first_query + row;
    T* values = top.values + query * top.k;
    int64_t* indices = top.indices + query * top.k;
    const T* scores = tile.scores + row * tile.stride;
    auto offer_from = [&](int64_t i) { offer(values, indices, top.k, scores[i], tile.first_item + i); };
    int64_t i = 0;
    for (; i + step <= tile.columns; i += step) {
      const Vec<T> worst = splat(values[0]);
      const Mask<T> passed = (load(scores + i) >= worst) | (load(scores + i + kLanes<T>) >= worst) |
                             (load(scores + i + 2 * kLanes<T>) >= worst) | (load(scores + i + 3 * kLanes<T>) >= worst);
      if (!any_lane<T>(passed)) continue;
      for (int64_t j = i; j < i + step; j++) offer_from(j);
    }
    for (; i < tile.columns; i++) offer_from(i);
  }
}

template <class T>
void keep_columns(const ScoreTile<T>& tile, const TopK<T>& top, int64_t begin, int64_t end) {
  constexpr int64_t step = 4 * kLanes<T>;
  const int64_t n = end - begin;
  T worst[kColumnQueries];
  for (int64_t i = 0; i < n; i++) worst[i] = top.values[(tile.first_query + begin + i) * top.k];
  for (int64_t row = 0; row < tile.rows; row++) {
    const T* scores = tile.scores + row * tile.stride + begin;
    auto offer_to = [&](int64_t i) {
      if (!(scores[i] >= worst[i])) return;
      const int64_t query = tile.first_query + begin + i;
      offer(top.values + query * top.k, top.indices + query * top.k, top.k, scores[i], tile.first_item + row);
      worst[i] = top.values[query * top.k];
    };
    int64_t i = 0;
    for (; i + step <= n; i += step) {
      Mask<T> passed{};
      for (int64_t j = i; j < i + step; j += kLanes<T>) passed |= load(scores + j) >= load(worst + j);
      if (!any_lane<T>(passed)) continue;
      for (int64_t j = i; j < i + step; j++) offer_to(j);
    }
    for (; i < n; i++) offer_to(i);
  }
}

#define ITM_INSTANTIATE_RANKING(T)                                                             \
  template bool nan_in_rows<T>(const ScoreTile<T>&, int64_t, int64_t);                         \
  template void count_rows<T>(const ScoreTile<T>&, const RankCounts<T>&, int64_t, int64_t);    \
  template void count_columns<T>(const ScoreTile<T>&, const RankCounts<T>&, int64_t, int64_t); \
  template void keep_rows<T>(const ScoreTile<T>&, const TopK<T>&, int64_t, int64_t);           \
  template void keep_columns<T>(const ScoreTile<T>&, const TopK<T>&, int64_t, int64_t);
ITM_INSTANTIATE_RANKING(float)
ITM_INSTANTIATE_RANKING(double)
#undef ITM_INSTANTIATE_RANKING
