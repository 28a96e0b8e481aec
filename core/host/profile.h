/* profile.h - where the time of a backend's steps goes, by region and thread. The CPU backend only.
 * Thread: that of the backend. */
#pragma once
#include "kernels/backend.h"

typedef struct qh_profile qh_profile;

/* Start adding up. NULL: this backend keeps no such times. */
qh_profile *qh_profile_begin(qh_backend *be);
void        qh_profile_end(qh_profile *p);          /* NULL is fine; before the backend closes */
void        qh_profile_reset(qh_profile *p);

int         qh_profile_n_regions(const qh_profile *p);
int         qh_profile_n_threads(const qh_profile *p);
const char *qh_profile_region(const qh_profile *p, int region);
double      qh_profile_us(const qh_profile *p, int region, int thread); /* since begin or reset */
