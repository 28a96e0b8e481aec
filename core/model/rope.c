/* rope.c - see rope.h */
#include "model/rope.h"
#include <math.h>

static const double pi = 3.14159265358979323846;

/* The pair that turns n_turns times within the original context; fractional. */
static double pair_of_turns(const qh_desc *d, double n_turns)
{
    return d->rope_dim * log(d->rope_ctx_orig / (n_turns * 2 * pi)) / (2 * log((double)d->rope_base));
}

/* YaRN leaves fast pairs alone, interpolates slow ones, and blends linearly in between. */
static double yarn_freq(const qh_desc *d, double freq, int pair)
{
    const double low = fmax(floor(pair_of_turns(d, d->yarn_beta_fast)), 0);
    const double high = fmin(ceil(pair_of_turns(d, d->yarn_beta_slow)), d->rope_dim - 1);
    const double ramp = fmin(fmax((pair - low) / fmax(high - low, 0.001), 0), 1);
    const double keep = (1 - ramp) * d->yarn_ext_factor;
    return freq / d->rope_scale_factor * (1 - keep) + freq * keep;
}

double qh_rope_freqs(const qh_desc *d, const float *factors, double *freq)
{
    for (int j = 0; j < d->rope_dim / 2; j++) {
        const double base = pow((double)d->rope_base, -2.0 * j / d->rope_dim);
        switch (d->rope_scale) {
        case QH_ROPE_SCALE_NONE: freq[j] = base; break;
        case QH_ROPE_SCALE_LINEAR: freq[j] = base / d->rope_scale_factor; break;
        case QH_ROPE_SCALE_FACTORS: freq[j] = base / factors[j]; break;
        case QH_ROPE_SCALE_YARN: freq[j] = yarn_freq(d, base, j); break;
        }
    }
    if (d->rope_scale != QH_ROPE_SCALE_YARN) return 1;
    if (d->yarn_ext_factor == 0) return d->yarn_attn_factor;
    return d->yarn_attn_factor * (1 + 0.1 * log(d->rope_scale_factor));
}
