// Scores of given pairs: what the tile engine (engine.h) does for all pairs, along lists.
//
//   parallel over runs of an owner's list
//     the owner's vectors transposed once, in the cache
//     tile: the vectors of as many members as fill it, where they lie, against the owner's -> epilogue
//
// Nothing but an owner is packed: a member's vectors are rows of the product, and are read once for a pair. Where the
// owner is the context, S of its members is turned and put side by side, so that tiles are full whatever the lists.
// Products are our own: a number of S is the same as in the tile of all pairs.
#pragma once

#include <atomic>

#include "candidate_lists.h"
#include "engine.h"
#include "gram_matrix.h"
#include "owner_columns.h"
#include "turn_block.h"

namespace itm {

constexpr int64_t kListColumns = 2048;  // vectors of a list that one worker takes at a time

// Vectors of a group as rows of T, where they lie or converted.
template <class In, class T>
class GroupRows {
 public:
  GroupRows(const Batch& batch, int64_t most) : batch(batch), room(std::is_same_v<In, T> ? 0 : most * batch.dim) {}

  // at: vectors of the room that are in use.
  const T* of(int64_t group, int64_t at = 0) const {
    if constexpr (std::is_same_v<In, T>) {
      return batch.vector<In>(group, 0);
    } else {
      T* out = room + at * batch.dim;
      for (int64_t i = 0; i < batch.count(group); i++) {
        const In* from = batch.vector<In>(group, i);
        for (int64_t d = 0; d < batch.dim; d++) out[i * batch.dim + d] = number_as<T>(from[d]);
      }
      return out;
    }
  }
  int64_t stride() const { return std::is_same_v<In, T> ? batch.vector_stride() : batch.dim; }

 private:
  const Batch& batch;
  Buffer<T> room;
};

// Adds the addresses of a group's rows.
template <class T>
void list_rows(const T* rows, int64_t n, int64_t stride, std::vector<const T*>& to) {
  for (int64_t i = 0; i < n; i++) to.push_back(rows + i * stride);
}

// The members that some list names, and their norms or Gram matrices: made by the worker that first needs them, which
// has just had the member's vectors in its cache.
template <class In, class T>
struct Members {
  const Batch& batch;
  const int64_t dim;
  std::vector<int64_t> place;  // of each member, vectors before its own; -1: in no list
  int64_t n_vectors = 0, largest = 0;
  Buffer<T> norm, gram;
  std::vector<int64_t> gram_offset;

  Members(const Batch& batch, const std::vector<bool>& named, bool norms, bool grams)
      : batch(batch),
        dim(batch.dim),
        place(named.size(), -1),
        gram_offset(1, 0),
        state(norms || grams ? named.size() : 0) {
    for (size_t m = 0; m < named.size(); m++) {
      const int64_t n = named[m] ? batch.count(m) : 0, stride = grams ? round_up(n, 4) : 0;
      if (named[m]) place[m] = n_vectors;
      n_vectors += n;
      largest = std::max(largest, n);
      gram_offset.push_back(gram_offset.back() + stride * stride);
    }
    norm = Buffer<T>(norms ? n_vectors : 0);
    gram = Buffer<T>(gram_offset.back(), true);
  }

  T* norm_of(int64_t member) const { return norm + place[member]; }
  T* gram_of(int64_t member) const { return gram + gram_offset[member]; }

  // `kept`, one of these two, once make(kept) has been called by somebody. While another worker calls it: make(room).
  template <class Make>
  const T* made(int64_t member, T* kept, T* room, Make&& make) const {
    uint8_t now = state[member].load(std::memory_order_acquire);
    if (now == kUnknown && state[member].compare_exchange_strong(now, kBeingMade, std::memory_order_acquire)) {
      make(kept);
      state[member].store(kMade, std::memory_order_release);
      return kept;
    }
    if (now == kMade) return kept;
    make(room);
    return room;
  }

 private:
  enum State : uint8_t { kUnknown, kBeingMade, kMade };
  mutable std::vector<std::atomic<uint8_t>> state;
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
        most(largest(owners)),
        limit(column_limit(owners)),
        stride(round_up(std::max(limit, members.largest), kColumnMultiple) + kColumnSlack),
        pair_stride(round_up(most, kColumnMultiple) + kColumnSlack),
        owner_rows(owners, owner_is_context && similarity.needs_gram ? most : 0),
        member_rows(members.batch, stride),
        columns(most, dim),
        sims(owner_is_context ? most * stride : 0, true),
        pair_sims(stride * pair_stride, true),
        gram(owner_is_context && similarity.needs_gram ? round_up(most, 4) * round_up(most, 4) : 0),
        norm(std::max(stride, pair_stride), true),
        member_columns(members.gram.size() > 0 && members.largest > kGramVectors ? members.largest : 0, dim),
        member_gram(members.gram.size() > 0 ? round_up(members.largest, 4) * round_up(members.largest, 4) : 0),
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
  const int64_t dim, most, limit, stride, pair_stride;

  void take_owner(int64_t o) {
    if (o == owner) return;
    owner = o;
    n = owners.count(o);
    const bool attends = similarity.needs_gram;
    const int64_t columns_before = columns.n_columns();
    columns.take(owners, o, attends && !owner_is_context ? norm.data() : static_cast<T*>(nullptr));
    for (int64_t r = 0; r < stride && columns.n_columns() < columns_before; r++)
      std::fill(pair_sims + r * pair_stride + columns.n_columns(), pair_sims + (r + 1) * pair_stride, T(0));
    if (!attends || !owner_is_context) return;
    std::fill_n(gram.data(), round_up(n, 4) * round_up(n, 4), T(0));
    row_at.clear();
    list_rows(owner_rows.of(o), n, owner_rows.stride(), row_at);
    if (n <= kGramVectors)
      ITM_PICK(gram_matrix<T>)(row_at.data(), n, dim, gram.data(), round_up(n, 4));
    else
      columns.gram(row_at, gram.data());
  }

  // First pair after `begin` that has no room in its tile.
  int64_t tile_end(int64_t begin, int64_t end) const {
    int64_t columns = 0, i = begin;
    do columns += members.batch.count(lists.member[i++]);
    while (i < end && columns + members.batch.count(lists.member[i]) <= limit);
    return i;
  }

  void copy_norms(int64_t member, T* to) const {
    const int64_t n = members.batch.count(member);
    const T* norms = members.made(member, members.norm_of(member), to, [&](T* out) {
      for (int64_t v = 0; v < n; v++) {
        const In* vector = members.batch.template vector<In>(member, v);
        out[v] = std::sqrt(squared_length<T>(vector, dim));
      }
    });
    if (norms != to) std::copy_n(norms, n, to);
  }

  // first: row of the member's first vector in the tile.
  const T* gram_of_member(int64_t member, int64_t first) {
    return members.made(member, members.gram_of(member), member_gram.data(), [&](T* out) {
      const int64_t n = members.batch.count(member), stride = round_up(n, 4);
      std::fill_n(out, stride * stride, T(0));
      if (n <= kGramVectors) {
        ITM_PICK(gram_matrix<T>)(row_at.data() + first, n, dim, out, stride);
      } else {
        member_columns.take(members.batch, member, nullptr);
        member_row_at.assign(row_at.begin() + first, row_at.begin() + first + n);
        member_columns.gram(member_row_at, out);
      }
    });
  }

  // S of the members of pairs [begin, end) and the owner: pair_sims [all members' vectors, pair_stride], and `starts`.
  void make_pair_sims(int64_t begin, int64_t end) {
    starts.assign(1, 0);
    row_at.clear();
    for (int64_t i = begin; i < end; i++) {
      const int64_t member = lists.member[i], count = members.batch.count(member);
      list_rows(member_rows.of(member, starts.back()), count, member_rows.stride(), row_at);
      starts.push_back(starts.back() + int32_t(count));
    }
    if constexpr (std::is_same_v<In, T>)
      for (int64_t i = end; i < lists.begin[owner + 1] && int64_t(row_at.size()) < starts.back() + kListedRows; i++)
        list_rows(member_rows.of(lists.member[i]), members.batch.count(lists.member[i]), member_rows.stride(), row_at);
    columns.multiply(starts.back(), columns.n_columns(), row_at, pair_sims.data(), pair_stride);
  }

  // The same with the owner's vectors as rows: sims [n, stride].
  void make_sims(int64_t begin, int64_t end) {
    make_pair_sims(begin, end);
    const int64_t n_columns = starts.back();
    ITM_PICK(turn_block<T>)(n_columns, n, pair_sims.data(), pair_stride, sims.data(), stride);
    for (int64_t r = 0; r < n; r++)
      std::fill(sims + r * stride + n_columns, sims + r * stride + round_up(n_columns, kColumnMultiple), T(0));
  }

  // The tile of all these pairs, where the owner is the context; scores and gradients are for the caller to add.
  Tile<T> tile_of_all(int64_t begin, int64_t end) {
    Tile<T> tile{};
    tile.context = owner;
    tile.pairs = lists.slot.data() + begin;
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
      for (int64_t i = begin; i < end; i++) copy_norms(lists.member[i], norm + starts[i - begin]);
      std::fill(norm + starts.back(), norm + round_up(starts.back(), kColumnMultiple), T(0));
      tile.query_norm = norm.data();
    }
    return tile;
  }

  // The tile of one of them, where the owner is the query.
  Tile<T> tile_of_one(int64_t begin, int64_t i) {
    const int64_t member = lists.member[i];
    whole[1] = int32_t(n);
    Tile<T> tile{};
    tile.context = member;
    tile.first_group = owner;
    tile.pairs = lists.slot.data() + i;
    tile.n_context = members.batch.count(member);
    tile.n_columns = n;
    tile.n_groups = 1;
    tile.columns = whole;
    tile.sims = pair_sims + starts[i - begin] * pair_stride;
    tile.stride = pair_stride;
    tile.score_stride = 1;
    tile.scratch = scratch.data();
    if (similarity.needs_gram) {
      tile.gram = gram_of_member(member, starts[i - begin]);
      tile.gram_stride = round_up(tile.n_context, 4);
      tile.query_norm = norm.data();
    }
    return tile;
  }

  void score(int64_t begin, int64_t end, T* scores) {
    if (owner_is_context) {
      make_sims(begin, end);
      Tile<T> tile = tile_of_all(begin, end);
      tile.scores = pair_scores.data();
      similarity.forward(tile);
      for (int64_t i = begin; i < end; i++) scores[lists.slot[i]] = pair_scores[i - begin];
      return;
    }
    make_pair_sims(begin, end);
    for (int64_t i = begin; i < end; i++) {
      Tile<T> tile = tile_of_one(begin, i);
      tile.scores = scores + lists.slot[i];
      similarity.forward(tile);
    }
  }

  int64_t owner = -1, n = 0;
  const GroupRows<In, T> owner_rows, member_rows;
  OwnerColumns<In, T> columns;
  Buffer<T> sims, pair_sims, gram, norm;
  OwnerColumns<In, T> member_columns;
  Buffer<T> member_gram, scratch;
  std::vector<T> pair_scores;
  std::vector<int32_t> starts;

 private:
  std::vector<const T*> row_at, member_row_at;  // of the vectors that are multiplied with the owner's, with a member's
  int32_t whole[2] = {0, 0};
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

template <class In, class T>
void score_pairs(const Batch& owners, const Batch& others, bool owner_is_context, const Candidates& candidates,
                 bool owners_list, const Similarity<T>& similarity, T* scores) {
  const bool grams = similarity.needs_gram;
  const PairLists lists(candidates, owners_list);
  const Members<In, T> members(others, named_members(candidates, owners_list, others.n_groups),
                               grams && owner_is_context, grams && !owner_is_context);
  const std::vector<ListRun> runs = cut_lists(lists, others);
  if (runs.empty()) return;
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

}  // namespace itm
