/* read_rate.h - how fast this machine's cores read a buffer again and again: the floor of decoding,
 * which reads every weight and every cached key and value once a step.
 *
 * Thread: any; starts threads of its own and blocks for some tens of milliseconds. */
#pragma once
#include "base/err.h"

/* Bytes a second at which n_threads threads together read a buffer of len_bytes, each its own part,
 * the best of a few runs. Above 1 GiB the rate of 1 GiB is given. */
qh_status qh_read_rate(double *out, uint64_t len_bytes, int n_threads, qh_err *err);
