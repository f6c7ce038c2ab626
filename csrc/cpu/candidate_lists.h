// Given pairs of groups, in lists: each owner with the members it is to be compared with.
#pragma once

#include <cstdint>
#include <vector>

#include "batch.h"

namespace itm {

// What the caller gave: for each of n_lists groups k groups of the other side, or -1.
struct Candidates {
  const int64_t* indices;  // [n_lists, k]
  int64_t n_lists, k;
  int64_t n_others;  // groups of the other side
};

// Throws std::invalid_argument where an index is neither -1 nor a group.
void check_candidates(const Candidates& candidates);

struct PairLists {
  std::vector<int64_t> begin;   // [n_owners + 1] first pair of each owner
  std::vector<int64_t> member;  // [n_pairs]
  std::vector<int64_t> slot;    // [n_pairs] place in the candidates

  // In the order of the owners and, of each, of the candidates. owners_list: the lists are those of the owners,
  // otherwise those of the members.
  PairLists(const Candidates& candidates, bool owners_list);

  int64_t n_owners() const { return int64_t(begin.size()) - 1; }
  int64_t n_pairs() const { return begin.back(); }
};

// Whether the groups that have the lists should own the pairs, or those in them: an owner's vectors are columns of the
// product, which come in whole registers, a member's are rows.
bool lists_own(const Batch& listed, const Batch& others);

}  // namespace itm
