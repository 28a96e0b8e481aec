#include "test.h"
#include "http1_drive.h"

#define GET "GET / HTTP/1.1\r\nHost: a\r\n"
#define POST_CHUNKED "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

/* Feeds text whole, in pieces of 1, 2, 3 and 7 bytes, and checks that all agree. */
static http1_run run_text(const char *text, size_t len)
{
    static const size_t PIECES[] = {1, 2, 3, 7};
    http1_run whole = http1_drive(http1_default_limits, text, len, SIZE_MAX);
    for (size_t i = 0; i < sizeof PIECES / sizeof *PIECES; i++) {
        http1_run r = http1_drive(http1_default_limits, text, len, PIECES[i]);
        CHECK_INT(r.status, whole.status);
        CHECK_INT(r.n_requests, whole.n_requests);
        CHECK_INT(r.bodies.len, whole.bodies.len);
        CHECK(r.bad.message == whole.bad.message);
        http1_run_deinit(&r);
    }
    return whole;
}

static void check_refused(const char *text, size_t len, int http_status)
{
    http1_run r = run_text(text, len);
    if (r.status == QH_OK) fail_msg("accepted: %s", text);
    if (r.bad.http_status != http_status)
        fail_msg("%s: %d (%s), want %d", text, r.bad.http_status, r.bad.message, http_status);
    http1_run_deinit(&r);
}
#define REFUSED(text, http_status) check_refused(text, sizeof(text) - 1, http_status)

static void check_accepted(const char *text, int n_requests, const char *bodies)
{
    http1_run r = run_text(text, strlen(text));
    if (r.status != QH_OK) fail_msg("refused: %s: %s", text, r.bad.message);
    CHECK_INT(r.n_requests, n_requests);
    CHECK_STR(qh_str_z(&r.bodies), bodies);
    http1_run_deinit(&r);
}

TEST(a_request_is_taken_apart)
{
    const char *text = "POST /a%20b/c?x=1&y=2#frag HTTP/1.1\r\nHost: example.com:80\r\nX-One:  two \t\r\n"
                       "x-one: three\r\nEmpty:\r\nContent-Length: 3\r\nExpect: 100-Continue\r\n\r\nabc";
    http1_run r = run_text(text, strlen(text));
    CHECK_OK(r.status);
    CHECK_STR(r.last.method, "POST");
    CHECK_STR(r.last.target, "/a%20b/c?x=1&y=2#frag");
    CHECK_STR(r.last.path, "/a%20b/c");
    CHECK_STR(r.last.query, "x=1&y=2");
    CHECK_INT(r.last.version, 11);
    CHECK_INT(r.last.n_fields, 6);
    CHECK_STR(r.last.fields[1].name, "X-One");
    CHECK_STR(r.last.fields[1].value, "two");
    CHECK_STR(r.last.fields[2].value, "three");
    CHECK_STR(qh_http1_head_get(&r.last, "X-ONE"), "two");
    CHECK_STR(qh_http1_head_get(&r.last, "empty"), "");
    CHECK(qh_http1_head_get(&r.last, "absent") == NULL);
    CHECK_INT(r.last.body_len_bytes, 3);
    CHECK(r.last.is_keep_alive && r.last.has_expect && !r.last.has_coding);
    CHECK_STR(qh_str_z(&r.bodies), "abc");
    http1_run_deinit(&r);
}

static void check_target(const char *line, const char *path, const char *query)
{
    char text[512];
    snprintf(text, sizeof text, "%s HTTP/1.1\r\nHost: a\r\n\r\n", line);
    http1_run r = run_text(text, strlen(text));
    if (r.status) fail_msg("refused: %s: %s", line, r.bad.message);
    CHECK_STR(r.last.path, path);
    if (query) CHECK_STR(r.last.query, query);
    else CHECK(r.last.query == NULL);
    http1_run_deinit(&r);
}

TEST(targets_of_all_four_forms_give_path_and_query)
{
    check_target("GET /", "/", NULL);
    check_target("GET /?", "/", "");
    check_target("GET /a?b?c#d?e", "/a", "b?c");
    check_target("GET /a#b?c", "/a", NULL);
    check_target("GET //double", "//double", NULL);
    check_target("GET http://h", "/", NULL);
    check_target("GET HTTP://h:80?q", "/", "q");
    check_target("GET https://u:p@[::1]:443/x?y", "/x", "y");
    check_target("OPTIONS *", "*", NULL);
    check_target("OPTIONS /x", "/x", NULL);
    check_target("CONNECT h:1", "h:1", NULL);
    check_target("GET /\xc3\xa0", "/\xc3\xa0", NULL);
    check_target("GET /\xf4\x8f\xbf\xbf", "/\xf4\x8f\xbf\xbf", NULL);
}

TEST(bad_request_lines_are_refused)
{
    REFUSED("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    REFUSED(" GET / HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    REFUSED("\x16\x03\x01", 400);
    REFUSED("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    REFUSED("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    REFUSED("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", 400);
    REFUSED("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    REFUSED("GET / HTTP/1.1\nHost: a\r\n\r\n", 400);
    REFUSED("GET / HTTP/1.1\r\r\nHost: a\r\n\r\n", 400);
    REFUSED("GET /\r\nHost: a\r\n\r\n", 400);
    REFUSED("GET /a\0b HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    REFUSED("GET /a\x7f HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    REFUSED("GET /\xc0\xaf HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    REFUSED("GET /\xe0\x80\xaf HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    REFUSED("GET /\xed\xa0\x80 HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    REFUSED("GET /\xf4\x90\x80\x80 HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    REFUSED("GET /\xc3 HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    REFUSED("get / HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    REFUSED("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    REFUSED("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    REFUSED("GET http://a:b/x HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    REFUSED("GET http://[::1/x HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    REFUSED("GET *x HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    REFUSED("OPTIONS *x HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    REFUSED("CONNECT a HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    REFUSED("CONNECT /x HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    REFUSED("GET / http/1.1\r\nHost: a\r\n\r\n", 400);
    REFUSED("GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400);
    REFUSED("GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505);
    REFUSED("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505);
    REFUSED("GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505);
}

TEST(bad_fields_are_refused)
{
    REFUSED(GET "X : a\r\n\r\n", 400);
    REFUSED(GET "X\t: a\r\n\r\n", 400);
    REFUSED(GET ": a\r\n\r\n", 400);
    REFUSED(GET "X\r\n\r\n", 400);
    REFUSED(GET "X: a\n\r\n", 400);
    REFUSED(GET "X: a\r\n\n", 400);
    REFUSED(GET "X: a\rb\r\n\r\n", 400);
    REFUSED(GET "X: a\0b\r\n\r\n", 400);
    REFUSED(GET "X: a\x01\r\n\r\n", 400);
    REFUSED(GET "X: a\r\n b\r\n\r\n", 400);
    REFUSED(GET "X\0Y: a\r\n\r\n", 400);
    REFUSED(GET "X\x80: a\r\n\r\n", 400);
    REFUSED(GET "(X): a\r\n\r\n", 400);
    REFUSED(GET "Content_Length: 3\r\n\r\n", 400);
    REFUSED(GET "TRANSFER_encoding: chunked\r\n\r\n", 400);
    REFUSED(GET "Host: a\r\n\r\n", 400);
    REFUSED("GET / HTTP/1.1\r\n\r\n", 400);
    REFUSED("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400);
    REFUSED("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400);
    REFUSED("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400);
    REFUSED("GET / HTTP/1.1\r\nHost: a:999999\r\n\r\n", 400);
    REFUSED("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400);
    REFUSED("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400);
    REFUSED("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400);
    REFUSED("GET / HTTP/1.1\r\nHost: %4\r\n\r\n", 400);
    REFUSED("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", 400);
    REFUSED(GET "Content-Type: a\r\nContent-Type: a\r\n\r\n", 400);
    REFUSED(GET "Authorization: a\r\nauthorization: b\r\n\r\n", 400);
    REFUSED(GET "Expect: a-miracle\r\n\r\n", 417);
    check_accepted("GET / HTTP/1.1\r\nHost:\r\n\r\n", 1, "");
    check_accepted("GET / HTTP/1.1\r\nHost: %41.b:\r\n\r\n", 1, "");
    check_accepted(GET "X_Custom: ok\r\nX: \xff\r\n\r\n", 1, "");
}

TEST(content_length_is_one_plain_number)
{
    REFUSED(GET "Content-Length: +3\r\n\r\nabc", 400);
    REFUSED(GET "Content-Length: -3\r\n\r\nabc", 400);
    REFUSED(GET "Content-Length: 0x3\r\n\r\nabc", 400);
    REFUSED(GET "Content-Length: 3,3\r\n\r\nabc", 400);
    REFUSED(GET "Content-Length: 3 3\r\n\r\nabc", 400);
    REFUSED(GET "Content-Length:\r\n\r\nabc", 400);
    REFUSED(GET "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc", 400);
    REFUSED(GET "Content-Length: 9223372036854775808\r\n\r\nabc", 400);
    REFUSED(GET "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400);
    REFUSED(GET "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 400);
    REFUSED(GET "Content-Length: 4\r\n\r\nabc", 400);       /* ends too early */
    check_accepted(GET "Content-Length: 003\r\n\r\nabc", 1, "abc");
}

TEST(transfer_codings_end_in_one_chunked)
{
    REFUSED(GET "Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400);
    REFUSED(GET "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400);
    REFUSED(GET "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 400);
    REFUSED(GET "Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n", 400);
    REFUSED(GET "Transfer-Encoding:\r\n\r\n0\r\n\r\n", 400);
    REFUSED(GET "Transfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n", 400);
    REFUSED(GET "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501);
    REFUSED(GET "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n", 501);
    REFUSED("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400);
    const char *coded = GET "Transfer-Encoding: GZIP\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n";
    http1_run r = run_text(coded, strlen(coded));
    CHECK_OK(r.status);
    CHECK(r.last.has_coding && r.last.body_len_bytes == -1);
    http1_run_deinit(&r);
}

TEST(chunked_bodies_are_joined)
{
    check_accepted(POST_CHUNKED "3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n", 1, "abc0123456789");
    check_accepted(POST_CHUNKED "0003;a;b=c;d=\"e\\\"f \t\";g = h\r\nabc\r\n0;x\r\n\r\n", 1, "abc");
    check_accepted(POST_CHUNKED "0\r\nX-Sum: 1\r\nY:\r\n\r\n", 1, "");
    REFUSED(POST_CHUNKED "\r\n", 400);
    REFUSED(POST_CHUNKED "g\r\n", 400);
    REFUSED(POST_CHUNKED "0x3\r\nabc\r\n0\r\n\r\n", 400);
    REFUSED(POST_CHUNKED "-3\r\nabc\r\n0\r\n\r\n", 400);
    REFUSED(POST_CHUNKED "3 \r\nabc\r\n0\r\n\r\n", 400);
    REFUSED(POST_CHUNKED " 3\r\nabc\r\n0\r\n\r\n", 400);
    REFUSED(POST_CHUNKED "3 ;a\r\nabc\r\n0\r\n\r\n", 400);
    REFUSED(POST_CHUNKED "3;\r\nabc\r\n0\r\n\r\n", 400);
    REFUSED(POST_CHUNKED "3;a=\r\nabc\r\n0\r\n\r\n", 400);
    REFUSED(POST_CHUNKED "3;a=\"b\r\nabc\r\n0\r\n\r\n", 400);
    REFUSED(POST_CHUNKED "3;a b\r\nabc\r\n0\r\n\r\n", 400);
    REFUSED(POST_CHUNKED "3;a\nabc\r\n0\r\n\r\n", 400);
    REFUSED(POST_CHUNKED "3\nabc\r\n0\r\n\r\n", 400);
    REFUSED(POST_CHUNKED "3\r\nabcd\r\n0\r\n\r\n", 400);
    REFUSED(POST_CHUNKED "3\r\nabc\n0\r\n\r\n", 400);
    REFUSED(POST_CHUNKED "3\r\nabc0\r\n\r\n", 400);
    REFUSED(POST_CHUNKED "3\r\nabc\r\n", 400);
    REFUSED(POST_CHUNKED "0\r\n", 400);
    REFUSED(POST_CHUNKED "0\r\nContent-Length: 3\r\n\r\n", 400);
    REFUSED(POST_CHUNKED "0\r\nbad name: 3\r\n\r\n", 400);
    REFUSED(POST_CHUNKED "0\r\nX: 1\n\r\n", 400);
    REFUSED(POST_CHUNKED "ffffffffffffffff\r\n", 400);
    REFUSED(POST_CHUNKED "00000000000000001\r\n", 400);
}

TEST(pipelined_requests_come_in_order)
{
    check_accepted(GET "Content-Length: 2\r\n\r\nab" GET "\r\n" POST_CHUNKED "1\r\nc\r\n0\r\n\r\n", 3, "abc");
    check_accepted(GET "Connection: close\r\n\r\n" GET "\r\n", 1, "");
    check_accepted(GET "Connection: x, CLOSE\r\n\r\n" GET "\r\n", 1, "");
    check_accepted("GET / HTTP/1.0\r\n\r\n" GET "\r\n", 1, "");
    check_accepted("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" GET "\r\n", 2, "");
}

static http1_run run_limited(qh_http1_limits limits, const qh_str *text)
{
    http1_run whole = http1_drive(limits, text->data, text->len, SIZE_MAX);
    http1_run bytes = http1_drive(limits, text->data, text->len, 1);
    CHECK_INT(whole.bad.http_status, bytes.bad.http_status);
    http1_run_deinit(&bytes);
    return whole;
}

static int status_of_field(size_t n_value)      /* "X: aaa...\r\n" with so many a's */
{
    qh_http1_limits limits = {50, 100, 500, 10};
    qh_str s = {0};
    qh_str_append_z(&s, GET "X: ");
    for (size_t i = 0; i < n_value; i++) qh_str_append_c(&s, 'a');
    qh_str_append_z(&s, "\r\n\r\n");
    http1_run r = run_limited(limits, &s);
    int status = r.bad.http_status;
    http1_run_deinit(&r);
    qh_str_deinit(&s);
    return status;
}

static int status_of_fields(int n, const char *prefix)
{
    qh_http1_limits limits = {50, 100, 500, 10};
    qh_str s = {0};
    qh_str_append_z(&s, prefix);
    for (int i = 0; i < n; i++) qh_str_append_z(&s, "X: 1\r\n");
    qh_str_append_z(&s, "\r\n");
    http1_run r = run_limited(limits, &s);
    int status = r.bad.http_status;
    http1_run_deinit(&r);
    qh_str_deinit(&s);
    return status;
}

TEST(limits_hold_at_their_edge)
{
    CHECK_INT(status_of_field(95), 0);
    CHECK_INT(status_of_field(96), 431);
    CHECK_INT(status_of_field(100000), 431);
    CHECK_INT(status_of_fields(9, GET), 0);
    CHECK_INT(status_of_fields(10, GET), 431);
    CHECK_INT(status_of_fields(10, POST_CHUNKED "0\r\n"), 0);       /* a count of its own for trailers */
    CHECK_INT(status_of_fields(11, POST_CHUNKED "0\r\n"), 431);

    qh_http1_limits limits = {30, 100, 120, 100};
    qh_str s = {0};
    qh_str_append_z(&s, "GET /");
    for (int i = 0; i < 30; i++) qh_str_append_c(&s, 'a');
    http1_run r = run_limited(limits, &s);      /* refused although no line end ever comes */
    CHECK_INT(r.bad.http_status, 414);
    http1_run_deinit(&r);
    qh_str_clear(&s);
    qh_str_append_z(&s, GET);
    for (int i = 0; i < 20; i++) qh_str_append_z(&s, "Xyz: 123\r\n");
    r = run_limited(limits, &s);
    CHECK_INT(r.bad.http_status, 431);
    http1_run_deinit(&r);
    qh_str_deinit(&s);
}

TEST(chunk_extensions_are_limited_over_the_whole_body)
{
    qh_str s = {0};
    qh_str_append_z(&s, POST_CHUNKED);
    for (int i = 0; i < 400; i++) qh_str_append_z(&s, "1;abcdefghij\r\nx\r\n");
    qh_str_append_z(&s, "0\r\n\r\n");
    http1_run r = http1_drive(http1_default_limits, s.data, s.len, SIZE_MAX);
    CHECK_OK(r.status);
    http1_run_deinit(&r);
    s.len -= 5;
    for (int i = 0; i < 20; i++) qh_str_append_z(&s, "1;abcdefghij\r\nx\r\n");
    r = http1_drive(http1_default_limits, s.data, s.len, SIZE_MAX);
    CHECK_STATUS(r.status, QH_EFORMAT);
    CHECK_STR(r.bad.message, "chunk extensions too long");
    http1_run_deinit(&r);
    qh_str_deinit(&s);
}

TEST(a_refused_parser_stays_refused)
{
    qh_http1 p;
    size_t used;
    qh_http1_init(&p, http1_default_limits);
    CHECK(qh_http1_is_idle(&p));
    CHECK(qh_http1_feed(&p, "x\r\n", 3, &used) == QH_HTTP1_BAD);
    CHECK(qh_http1_feed(&p, "GET / HTTP/1.0\r\n\r\n", 18, &used) == QH_HTTP1_BAD);
    CHECK_INT(used, 0);
    CHECK_STATUS(qh_http1_finish(&p), QH_EFORMAT);
    qh_http1_deinit(&p);
}

TEST(reply_fields_are_judged_by_the_same_rules)
{
    CHECK(qh_http1_is_token("X-Ok_1") && !qh_http1_is_token("") && !qh_http1_is_token("a b"));
    CHECK(qh_http1_is_field_value("a \t\xff") && qh_http1_is_field_value(""));
    CHECK(!qh_http1_is_field_value("a\r\nb") && !qh_http1_is_field_value("\x7f"));
}

TEST_MAIN()
