// Scores of given pairs: what the tile engine (engine.h) does for all pairs, along lists.
//
//   member superblock (each member's vectors transposed once, bounded memory)
//     parallel over runs of an owner's list
//       tile: the owner's vectors against those of as many members as fill it, put together a run of the dimension at
//       a time, so that what the product reads stays in the cache -> epilogue
//
// The owner is the context or the query; then S is turned pair by pair. Products are our own: their number of columns
// differs from tile to tile, and a number of S is the same as in the tile of all pairs.
#pragma once

#include "candidate_lists.h"
#include "engine.h"
#include "pair_columns.h"

namespace itm {

constexpr int64_t kMemberBytes = 256 << 20;  // of transposed members at a time
constexpr int64_t kListColumns = 2048;       // of a list that one worker takes at a time

// Vectors of a group as rows of T, where they lie or converted.
template <class In, class T>
class GroupRows {
 public:
  GroupRows(const Batch& batch, int64_t most)
      : batch(batch), room(std::is_same_v<In, T> ? 0 : most * batch.dim) {}

  const T* of(int64_t group) const {
    if constexpr (std::is_same_v<In, T>) {
      return batch.vector<In>(group, 0);
    } else {
      for (int64_t i = 0; i < batch.count(group); i++) {
        const In* from = batch.vector<In>(group, i);
        for (int64_t d = 0; d < batch.dim; d++) room.data()[i * batch.dim + d] = number_as<T>(from[d]);
      }
      return room.data();
    }
  }
  int64_t stride() const { return std::is_same_v<In, T> ? batch.vector_stride() : batch.dim; }

 private:
  const Batch& batch;
  Buffer<T> room;
};

// The members [first, last) that some list names: transposed, with their norms or Gram matrices.
template <class In, class T>
struct Members {
  const Batch& batch;
  const int64_t first, dim;
  std::vector<int64_t> place;  // of each member, vectors before its own; -1: in no list
  int64_t n_vectors = 0, largest = 0;
  Buffer<T> panels;  // of a member, from place * dim on: [dim, 64], ..., the last one narrower
  Buffer<T> norm, gram;
  std::vector<int64_t> gram_offset;

  Members(const Batch& batch, int64_t first, int64_t last, const std::vector<bool>& named, bool norms, bool grams,
          const Gemm<T, T>& gemm)
      : batch(batch), first(first), dim(batch.dim), place(last - first, -1), gram_offset(last - first + 1, 0) {
    for (int64_t m = first; m < last; m++) {
      const int64_t n = named[m] ? batch.count(m) : 0, stride = grams ? round_up(n, 4) : 0;
      if (named[m]) place[m - first] = n_vectors;
      n_vectors += n;
      largest = std::max(largest, n);
      gram_offset[m - first + 1] = gram_offset[m - first] + stride * stride;
    }
    panels = Buffer<T>(n_vectors * dim + kColumnSlack);
    norm = Buffer<T>(norms ? n_vectors : 0);
    gram = Buffer<T>(gram_offset.back(), true);
    const double work = double(n_vectors) * dim * (kMoveWork + (grams ? largest : 0));
    parallel_workers(last - first, work, [&](auto next) {
      const GroupRows<In, T> rows(batch, grams ? largest : 0);
      for (int64_t i = next(); i >= 0; i = next())
        if (place[i] >= 0) {
          const int64_t n = batch.count(first + i);
          pack_panels<T, In, T>(batch, {first + i, first + i + 1, n, n, place[i]}, dim, panels.data(),
                                norms ? norm.data() : static_cast<T*>(nullptr));
          if (!grams) continue;
          const T* vectors = rows.of(first + i);
          for (int64_t j = 0; j < n; j += kPanelColumns)
            gemm(n, std::min(kPanelColumns, n - j), dim, vectors, rows.stride(), panel(first + i, j, 0), width(n, j),
                 gram_of(first + i) + j, round_up(n, 4));
        }
    });
  }

  static int64_t width(int64_t n, int64_t j) { return std::min(kPanelColumns, n - j); }
  int64_t place_of(int64_t member) const { return place[member - first]; }
  T* gram_of(int64_t member) const { return gram + gram_offset[member - first]; }
  // Of vectors j ... of a member, the numbers from p on.
  const T* panel(int64_t member, int64_t j, int64_t p) const {
    return panels + (place_of(member) + j) * dim + p * width(batch.count(member), j);
  }
};

inline std::vector<bool> named_members(const Candidates& candidates, bool owners_list, int64_t n_members) {
  std::vector<bool> named(n_members, false);
  for (int64_t i = 0; i < candidates.n_lists * candidates.k; i++)
    if (candidates.indices[i] >= 0) named[owners_list ? candidates.indices[i] : i / candidates.k] = true;
  return named;
}

// What a worker needs for its tiles: an owner, then parts of its list.
template <class In, class T>
class PairTile {
 public:
  PairTile(const Batch& owners, const Members<In, T>& members, const PairLists& lists, const Similarity<T>& similarity,
           bool owner_is_context)
      : owners(owners),
        members(members),
        lists(lists),
        similarity(similarity),
        owner_is_context(owner_is_context),
        gemm(Gemm<T, T>::own()),
        dim(owners.dim),
        run(gemm.run(owners.dim)),
        most(largest(owners)),
        limit(column_limit(owners)),
        stride(round_up(std::max(limit, members.largest), kColumnMultiple) + kColumnSlack),
        pair_stride(round_up(most, kColumnMultiple) + kColumnSlack),
        rows(most * dim),
        panel(run * std::max(stride, pair_stride)),
        sims(most * stride, true),
        pair_sims(owner_is_context ? 0 : members.largest * pair_stride, true),
        gram(owner_is_context && similarity.needs_gram ? round_up(most, 4) * round_up(most, 4) : 0),
        norm(std::max(stride, pair_stride), true),
        scratch(owner_is_context ? similarity.scratch(most, stride, limit)
                                 : similarity.scratch(members.largest, pair_stride, 1),
                true),
        pair_scores(limit) {}

  const Batch& owners;
  const Members<In, T>& members;
  const PairLists& lists;
  const Similarity<T>& similarity;
  const bool owner_is_context;
  const Gemm<T, T> gemm;
  const int64_t dim, run, most, limit, stride, pair_stride;

  void take_owner(int64_t o) {
    if (o == owner) return;
    owner = o;
    n = owners.count(o);
    for (int64_t r = 0; r < n; r++) {
      const In* from = owners.vector<In>(o, r);
      for (int64_t p = 0; p < dim; p += run) {
        const int64_t depth = std::min(run, dim - p);
        T* to = rows + p * n + r * depth;
        for (int64_t d = 0; d < depth; d++) to[d] = number_as<T>(from[p + d]);
      }
      if (similarity.needs_gram && !owner_is_context) norm.data()[r] = std::sqrt(squared_length<T>(from, dim));
    }
    if (similarity.needs_gram && !owner_is_context)
      std::fill(norm + n, norm + round_up(n, kColumnMultiple), T(0));
    else if (similarity.needs_gram)
      make_gram();
  }

  // First pair after `begin` that has no room in its tile.
  int64_t tile_end(int64_t begin, int64_t end) const {
    int64_t columns = 0, i = begin;
    do columns += members.batch.count(lists.member[i++]);
    while (i < end && columns + members.batch.count(lists.member[i]) <= limit);
    return i;
  }

  // S of the owner and the members of pairs [begin, end): sims [n, stride].
  void make_sims(int64_t begin, int64_t end) {
    starts.assign(1, 0);
    for (int64_t i = begin; i < end; i++)
      starts.push_back(starts.back() + int32_t(members.batch.count(lists.member[i])));
    const int64_t n_columns = starts.back(), padded = round_up(n_columns, kColumnMultiple);
    const auto copy = ITM_PICK(copy_columns<T>);
    for (int64_t p = 0; p < dim; p += run) {
      const int64_t depth = std::min(run, dim - p);
      for (int64_t i = begin; i < end; i++) {
        const int64_t m = lists.member[i], count = members.batch.count(m);
        for (int64_t j = 0; j < count; j += kPanelColumns) {
          const int64_t width = Members<In, T>::width(count, j);
          copy(depth, width, members.panel(m, j, p), width, panel + starts[i - begin] + j, stride);
        }
      }
      for (int64_t d = 0; d < depth; d++)
        std::fill(panel + d * stride + n_columns, panel + d * stride + padded, T(0));
      for (int64_t j = 0; j < padded; j += kPanelColumns)
        gemm.in_one_run(n, std::min(kPanelColumns, padded - j), depth, rows + p * n, depth, panel + j, stride, sims + j,
                        stride, p > 0);
    }
  }

  // The tile of all these pairs, where the owner is the context; scores and gradients are for the caller to add.
  Tile<T> tile_of_all(int64_t begin, int64_t end) {
    Tile<T> tile{};
    tile.n_context = n;
    tile.n_columns = starts.back();
    tile.n_groups = end - begin;
    tile.columns = starts.data();
    tile.sims = sims.data();
    tile.stride = stride;
    tile.score_stride = 1;
    tile.scratch = scratch.data();
    if (similarity.needs_gram) {
      tile.gram = gram.data();
      tile.gram_stride = round_up(n, 4);
      for (int64_t i = begin; i < end; i++)
        std::copy_n(members.norm + members.place_of(lists.member[i]), starts[i - begin + 1] - starts[i - begin],
                    norm + starts[i - begin]);
      std::fill(norm + starts.back(), norm + round_up(starts.back(), kColumnMultiple), T(0));
      tile.query_norm = norm.data();
    }
    return tile;
  }

  // The tile of one of them, where the owner is the query.
  Tile<T> tile_of_one(int64_t begin, int64_t i) {
    const int64_t member = lists.member[i], width = members.batch.count(member);
    ITM_PICK(turn_block<T>)(n, width, sims + starts[i - begin], stride, pair_sims.data(), pair_stride);
    for (int64_t r = 0; r < width; r++)
      std::fill(pair_sims + r * pair_stride + n, pair_sims + r * pair_stride + round_up(n, kColumnMultiple), T(0));
    whole[1] = int32_t(n);
    Tile<T> tile{};
    tile.n_context = width;
    tile.n_columns = n;
    tile.n_groups = 1;
    tile.columns = whole;
    tile.sims = pair_sims.data();
    tile.stride = pair_stride;
    tile.score_stride = 1;
    tile.scratch = scratch.data();
    if (similarity.needs_gram) {
      tile.gram = members.gram_of(member);
      tile.gram_stride = round_up(width, 4);
      tile.query_norm = norm.data();
    }
    return tile;
  }

  void score(int64_t begin, int64_t end, T* scores) {
    make_sims(begin, end);
    if (owner_is_context) {
      Tile<T> tile = tile_of_all(begin, end);
      tile.scores = pair_scores.data();
      similarity.forward(tile);
      for (int64_t i = begin; i < end; i++) scores[lists.slot[i]] = pair_scores[i - begin];
      return;
    }
    for (int64_t i = begin; i < end; i++) {
      Tile<T> tile = tile_of_one(begin, i);
      tile.scores = scores + lists.slot[i];
      similarity.forward(tile);
    }
  }

  int64_t owner = -1, n = 0;
  Buffer<T> rows;  // of the owner: [n, run], [n, run], ...
  Buffer<T> panel, sims, pair_sims, gram, norm, scratch;
  std::vector<T> pair_scores;
  std::vector<int32_t> starts;

 private:
  int32_t whole[2] = {0, 0};

  void make_gram() {
    const int64_t gram_stride = round_up(n, 4);
    std::fill_n(gram.data(), gram_stride * gram_stride, T(0));
    for (int64_t p = 0; p < dim; p += run) {
      const int64_t depth = std::min(run, dim - p);
      ITM_PICK(turn_block<T>)(n, depth, rows + p * n, depth, panel.data(), pair_stride);
      gemm.in_one_run(n, n, depth, rows + p * n, depth, panel.data(), pair_stride, gram.data(), gram_stride, p > 0);
    }
  }
};

// A run of an owner's list.
struct ListRun {
  int64_t owner, begin, end;
};

inline std::vector<ListRun> cut_lists(const PairLists& lists, const Batch& members) {
  std::vector<ListRun> runs;
  for (int64_t o = 0; o < lists.n_owners(); o++)
    for (int64_t i = lists.begin[o], begin = i, columns = 0; i < lists.begin[o + 1]; i++) {
      columns += members.count(lists.member[i]);
      if (columns < kListColumns && i + 1 < lists.begin[o + 1]) continue;
      runs.push_back({o, begin, i + 1});
      begin = i + 1;
      columns = 0;
    }
  return runs;
}

// scores[i] of every candidate i that isn't -1. owners_list: see PairLists.
template <class In, class T>
void score_pairs(const Batch& owners, const Batch& others, bool owner_is_context, const Candidates& candidates,
                 bool owners_list, const Similarity<T>& similarity, T* scores) {
  const Gemm<T, T> gemm = Gemm<T, T>::own();
  const std::vector<bool> named = named_members(candidates, owners_list, others.n_groups);
  const int64_t most_vectors = std::max<int64_t>(kMemberBytes / (others.dim * int64_t(sizeof(T))), 1);
  const bool grams = similarity.needs_gram;
  for (int64_t first = 0, last; first < others.n_groups; first = last) {
    int64_t vectors = 0;
    for (last = first; last < others.n_groups; last++) {
      vectors += named[last] ? others.count(last) : 0;
      if (vectors > most_vectors && last > first) break;
    }
    const PairLists lists(candidates, owners_list, first, last);
    const Members<In, T> members(others, first, last, named, grams && owner_is_context, grams && !owner_is_context,
                                 gemm);
    const std::vector<ListRun> runs = cut_lists(lists, others);
    const double n_sims = double(lists.n_pairs()) * others.total() / others.n_groups * owners.total() / owners.n_groups;
    parallel_workers(runs.size(), n_sims * (others.dim + kWeighWork), [&](auto next) {
      PairTile<In, T> tile(owners, members, lists, similarity, owner_is_context);
      for (int64_t item = next(); item >= 0; item = next()) {
        tile.take_owner(runs[item].owner);
        for (int64_t i = runs[item].begin, end; i < runs[item].end; i = end) {
          end = tile.tile_end(i, runs[item].end);
          tile.score(i, end, scores);
        }
      }
    });
  }
}

}  // namespace itm
