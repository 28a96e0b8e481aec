/* The shared request corpus (gunicorn's): every valid row accepted, every invalid one refused, but
 * for the rows below. Rows are fed whole and one byte at a time.
 *
 * Many rows of HTTP/1.1 carry no Host, which RFC 9112 section 3.2 says to refuse. Those are fed
 * twice: as they are they must be refused for the Host, and with one put in they must show what
 * their folder says. */
#include "test.h"
#include "http1_drive.h"
#include <dirent.h>

typedef struct {
    const char *row;
    const char *reason;             /* why the row is judged the other way round, or not at all */
    bool is_skipped;
} exception;

static const exception EXCEPTIONS[] = {
    {"invalid/019.http", "server setting: contradicting X-Forwarded fields, which we do not read", false},
    {"valid/099.http", "its body ends 9,315 bytes before its Content-Length", false},
    {"valid/pp_01.http", "PROXY protocol", true},
    {"valid/pp_02.http", "PROXY protocol", true},
    {"valid/pp_04.http", "PROXY protocol", true},
    {"valid/pp_05.http", "PROXY protocol", true},
    {"valid/028.http", "also stands in invalid/ (020): space before the colon", false},
    {"valid/040.http", "also stands in invalid/: Content_Length", false},
    {"valid/040_compat.http", "also stands in invalid/ (040): Content_Length", false},
    {"valid/compat_obs_fold.http", "also stands in invalid/ (obs_fold_01): line folding", false},
    {"valid/compat_obs_fold_huge.http", "server setting: line folding", false},
    {"valid/031compat.http", "server setting: methods in lower case (invalid/003c is one)", false},
    {"valid/031compat2.http", "server setting: methods in lower case (invalid/003c is one)", false},
};

/* Rows that were made for limits other than ours: judged under those. */
static const struct {
    const char *row;
    qh_http1_limits limits;
} SETTINGS[] = {
    {"invalid/006.http", {4096, 8190, 65536, 100}},
    {"invalid/010.http", {10, 8190, 65536, 100}},
    {"invalid/011.http", {8190, 8190, 65536, 2}},
    {"invalid/012.http", {8190, 98, 65536, 100}},
    {"valid/024.http", {16384, 16384, 65536, 100}},
    {"valid/026.http", {8190, 16384, 65536, 100}},
};

static const exception *exception_of(const char *row)
{
    for (size_t i = 0; i < sizeof EXCEPTIONS / sizeof *EXCEPTIONS; i++)
        if (!strcmp(EXCEPTIONS[i].row, row)) return &EXCEPTIONS[i];
    return NULL;
}

static qh_http1_limits limits_of(const char *row)
{
    for (size_t i = 0; i < sizeof SETTINGS / sizeof *SETTINGS; i++)
        if (!strcmp(SETTINGS[i].row, row)) return SETTINGS[i].limits;
    return http1_default_limits;
}

/* Real newlines are dropped; \r \n \t \0 \xHH are spelled out. */
static qh_str read_row(const char *path)
{
    qh_str raw = {0}, out = {0};
    char buf[4096];
    FILE *f = fopen(path, "rb");
    CHECK(f != NULL);
    for (size_t n; (n = fread(buf, 1, sizeof buf, f)) > 0;) qh_str_append(&raw, buf, n);
    fclose(f);
    for (size_t i = 0; i < raw.len; i++) {
        char c = raw.data[i], e = i + 1 < raw.len ? raw.data[i + 1] : 0;
        if (c == '\n') continue;
        if (c != '\\') {
            qh_str_append_c(&out, c);
        } else if (e == 'x') {
            char hex[3] = {raw.data[i + 2], raw.data[i + 3], 0};
            qh_str_append_c(&out, (char)strtol(hex, NULL, 16));
            i += 3;
        } else {
            CHECK(strchr("rnt0", e) != NULL);
            qh_str_append_c(&out, e == 'r' ? '\r' : e == 'n' ? '\n' : e == 't' ? '\t' : 0);
            i++;
        }
    }
    qh_str_deinit(&raw);
    return out;
}

/* Put "Host: a" behind every request line of HTTP/1.1 whose head has none. */
static qh_str with_host(const qh_str *row)
{
    qh_str out = {0};
    const char *end = row->data + row->len;
    for (const char *at = row->data; at < end;) {
        const char *nl = memchr(at, '\n', (size_t)(end - at));
        const char *next = nl ? nl + 1 : end;
        qh_str_append(&out, at, (size_t)(next - at));
        const char *version = memmem(at, (size_t)(next - at), " HTTP/1.1\r\n", 11);
        const char *head_end = memmem(at, (size_t)(end - at), "\r\n\r\n", 4);
        size_t n_head = head_end ? (size_t)(head_end - at) : (size_t)(end - at);
        if (version && !memmem(at, n_head, "\nHost:", 6)) qh_str_append_z(&out, "Host: a\r\n");
        at = next;
    }
    return out;
}

static bool is_accepted(const char *row, const qh_str *data, http1_run *out)
{
    qh_http1_limits limits = limits_of(row);
    http1_run whole = http1_drive(limits, data->data, data->len, SIZE_MAX);
    http1_run bytes = http1_drive(limits, data->data, data->len, 1);
    CHECK_INT(whole.status, bytes.status);
    CHECK_INT(whole.n_requests, bytes.n_requests);
    CHECK_STR(qh_str_z(&whole.bodies), qh_str_z(&bytes.bodies));
    CHECK_INT(whole.bad.http_status, bytes.bad.http_status);
    http1_run_deinit(&bytes);
    *out = whole;
    return whole.status == QH_OK && whole.n_requests > 0;
}

static void judge_row(const char *folder, const char *leaf, bool is_valid, int *n_judged)
{
    char path[1024], row[512];
    snprintf(row, sizeof row, "%s/%s", strrchr(folder, '/') + 1, leaf);
    snprintf(path, sizeof path, "%s/%s", folder, leaf);
    const exception *ex = exception_of(row);
    if (ex && ex->is_skipped) {
        print_message("  %s not judged: %s\n", row, ex->reason);
        return;
    }
    if (ex) print_message("  %s %s: %s\n", row, is_valid ? "refused" : "accepted", ex->reason);
    bool is_wanted = is_valid != (ex != NULL);

    qh_str data = read_row(path), hosted = with_host(&data);
    http1_run r;
    if (hosted.len != data.len) {
        if (is_accepted(row, &data, &r) && r.last.version == 11)
            fail_msg("%s: accepted without a Host", row);
        if (is_wanted && r.status) CHECK_STR(r.bad.message, "an HTTP/1.1 request needs a Host");
        http1_run_deinit(&r);
    }
    bool is_ok = is_accepted(row, &hosted, &r);
    if (is_ok != is_wanted)
        fail_msg("%s: %s (%s)", row, is_ok ? "accepted" : "refused", is_ok ? "" : r.bad.message);
    if (!is_ok) CHECK(r.bad.http_status >= 400 && r.bad.message && r.bad.code);
    http1_run_deinit(&r);
    qh_str_deinit(&data);
    qh_str_deinit(&hosted);
    ++*n_judged;
}

static void judge_folder(const char *leaf, bool is_valid, int want_rows)
{
    if (!qh_test_data()) SKIP("QH_TEST_DATA is not set");
    char folder[512];
    snprintf(folder, sizeof folder, "%s/http/%s", qh_test_data(), leaf);
    DIR *d = opendir(folder);
    if (!d) SKIP("the request corpus is not there");
    int n = 0;
    for (struct dirent *e; (e = readdir(d));)
        if (strstr(e->d_name, ".http")) judge_row(folder, e->d_name, is_valid, &n);
    closedir(d);
    CHECK_INT(n, want_rows);
}

TEST(every_valid_row_is_accepted) { judge_folder("valid", true, 59); }
TEST(every_invalid_row_is_refused) { judge_folder("invalid", false, 74); }

TEST_MAIN()
