/* http_fuzz.c - libFuzzer target: the request parser, whatever the bytes and however they are split.
 *
 * Two bytes choose the split. What is checked: the same requests, bodies and refusals come out of the
 * whole input and of the split one; what is accepted keeps the promises of http1.h. */
#include "../unit/net/http1_drive.h"
#include <stdlib.h>
#include <string.h>

static void check(bool is_true)
{
    if (!is_true) abort();
}

static void check_head(const qh_http1_head *h)
{
    if (!h->method) return;
    check(qh_http1_is_token(h->method));
    check(h->path && *h->path && h->target && *h->target);
    check(h->version == 10 || h->version == 11);
    check(h->n_fields >= 0 && h->n_fields <= http1_default_limits.max_fields);
    int n_host = 0, n_length = 0, n_coding = 0;
    for (int i = 0; i < h->n_fields; i++) {
        check(qh_http1_is_token(h->fields[i].name) && qh_http1_is_field_value(h->fields[i].value));
        n_host += !strcasecmp(h->fields[i].name, "host");
        n_length += !strcasecmp(h->fields[i].name, "content-length");
        n_coding += !strcasecmp(h->fields[i].name, "transfer-encoding");
    }
    check(h->version == 10 ? n_host <= 1 : n_host == 1);
    check(n_length <= 1);
    check(!(h->body_len_bytes < 0) || (n_coding && !n_length && h->version == 11));
    check(h->body_len_bytes <= 0 || n_length);
}

/* Many small blocks are freed here; the default quarantine of 256 MB would hide real growth. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "quarantine_size_mb=16"; }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    if (len < 2) return 0;
    size_t piece = 1 + (size_t)(data[0] | data[1] << 8) % 100;
    const char *text = (const char *)data + 2;
    http1_run whole = http1_drive(http1_default_limits, text, len - 2, SIZE_MAX);
    http1_run split = http1_drive(http1_default_limits, text, len - 2, piece);
    check(whole.status == split.status && whole.n_requests == split.n_requests);
    check(whole.bodies.len == split.bodies.len);
    check(!whole.bodies.len || !memcmp(whole.bodies.data, split.bodies.data, whole.bodies.len));
    check(whole.bad.message == split.bad.message);
    check(whole.status == QH_OK || (whole.bad.http_status >= 400 && whole.bad.http_status <= 505));
    check_head(&whole.last);
    http1_run_deinit(&whole);
    http1_run_deinit(&split);
    return 0;
}
