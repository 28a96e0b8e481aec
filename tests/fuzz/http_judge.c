/* http_judge.c - the request parser as a filter, for test_http_h11.py.
 *
 * Reads inputs as a 32-bit little-endian length and that many bytes; writes for each the requests it
 * holds, one a line (method, target, version, number of fields, coded?, body in hex), then a line
 * "ok" or "bad STATUS MESSAGE". An input that ends in the middle of a request is bad. */
#include "../unit/net/http1_drive.h"
#include <stdio.h>
#include <stdlib.h>

static void print_hex(const char *data, size_t len)
{
    if (!len) putchar('-');
    for (size_t i = 0; i < len; i++) printf("%02x", (unsigned char)data[i]);
}

static void judge(const char *data, size_t len)
{
    qh_http1 p;
    qh_http1_head h = {0};
    qh_str body = {0};
    qh_http1_event ev = QH_HTTP1_END;
    qh_http1_init(&p, http1_default_limits);
    for (size_t at = 0, used; ev != QH_HTTP1_MORE && ev != QH_HTTP1_BAD; at += used) {
        ev = qh_http1_feed(&p, data + at, len - at, &used);
        if (ev == QH_HTTP1_HEAD) {
            qh_http1_head_deinit(&h);
            h = qh_http1_take_head(&p);
            qh_str_clear(&body);
        } else if (ev == QH_HTTP1_BODY) {
            qh_str_append(&body, p.piece, p.piece_len_bytes);
        } else if (ev == QH_HTTP1_END) {
            printf("request %s %s %d %d %d ", h.method, h.target, h.version, h.n_fields, h.has_coding);
            print_hex(body.data, body.len);
            putchar('\n');
            if (!h.is_keep_alive) break;
        }
    }
    if (qh_http1_finish(&p)) printf("bad %d %s\n", p.bad.http_status, p.bad.message);
    else printf("ok\n");
    qh_http1_head_deinit(&h);
    qh_str_deinit(&body);
    qh_http1_deinit(&p);
}

int main(void)
{
    uint32_t len;
    while (fread(&len, sizeof len, 1, stdin) == 1) {
        char *data = malloc(len ? len : 1);
        if (!data || fread(data, 1, len, stdin) != len) return 1;
        judge(data, len);
        fflush(stdout);
        free(data);
    }
    return 0;
}
