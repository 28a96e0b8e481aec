/* truncate.h - the truncations: which tokens may still be drawn.
 *
 * The set starts as the whole row and becomes a list at the first truncation that is on. Each one works
 * on the probabilities of the set as the one before left it (softmax at temperature 1 over the set).
 * Nothing sorts the vocabulary: thresholds come from block maxima, the rest is quickselect, so the list
 * is in no particular order. Ties go to the lower id.
 *
 *   top_k      the k largest logits
 *   top_p      the most probable tokens, until their mass reaches p (Holtzman et al. 2020)
 *   min_p      tokens with at least min_p times the largest probability (Nguyen et al. 2024)
 *   typical_p  tokens whose surprise is nearest to the entropy, until their mass reaches p (Meister et
 *              al. 2023)
 *   xtc        with the given probability, all tokens of at least the threshold but the least probable
 *              of them are removed (exclude top choices; p-e-w 2024)
 *
 * Thread: one owner. */
#pragma once
#include "engine/logits.h"
#include "engine/sampling.h"

typedef struct {
    const qh_logits *row;       /* borrowed */
    bool is_all;                /* the whole row; else the list */
    qh_cand *list;              /* [n], borrowed scratch: room for the vocabulary and QH_CAND_SLACK */
    int n;
    float *scratch;             /* [n_blocks] */
} qh_cand_set;

void qh_cand_set_init(qh_cand_set *s, const qh_logits *row, qh_cand *list, float *scratch);

/* coin: uniform in (0,1), decides whether XTC strikes. */
void qh_truncate(qh_cand_set *s, const qh_sampling *spec, float coin);
