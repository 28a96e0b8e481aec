/* rope.h - the frequencies of rotary position embedding, with every scaling applied.
 *
 * One place for all backends: a pair j of a head is turned by position * freq[j] and, after
 * turning, multiplied by the magnitude. Pairs are (2j, 2j+1) or (j, j + rope_dim/2) by
 * qh_desc.rope_kind. Sources: RoFormer (Su et al. 2021); position interpolation (Chen et al. 2023);
 * YaRN (Peng et al. 2023), section 3; Llama 3.x: divisors shipped with the model.
 * Thread: any, pure. */
#pragma once
#include "model/arch.h"

/* freq [rope_dim/2], radians a position, in double: at position 262,144 a float frequency is off by
 * up to 0.01 radians. factors [rope_dim/2] when rope_scale is FACTORS, else ignored.
 * Returns the magnitude: 1 but for YaRN. */
double qh_rope_freqs(const qh_desc *d, const float *factors, double *freq);
