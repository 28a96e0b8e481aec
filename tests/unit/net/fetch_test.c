/* The client against our own server, both on one loop. */
#include "test.h"
#include "base/clock.h"
#include "base/mem.h"
#include "net/fetch.h"
#include "net/http_text.h"
#include "net/server.h"

static qh_loop *loop;
static qh_server *server, *other;       /* two origins */
static qh_fetcher *fetcher;

/* ---- the server's side ---- */

typedef struct {
    qh_exchange *x;
    qh_timer *timer;
    int n_left;
} job;

static int n_closed_early;

static void on_close(void *user, qh_status why)
{
    job *j = user;
    if (why == QH_ECLOSED) n_closed_early++;
    qh_timer_free(j->timer);
    qh_exchange_unref(j->x);
    qh_free(j);
}

static void write_big(void *user)
{
    static char piece[10000];
    job *j = user;
    while (j->n_left) {
        memset(piece, 'a' + j->n_left % 26, sizeof piece);
        if (qh_exchange_write(j->x, piece, sizeof piece)) return;
        j->n_left--;
    }
    qh_exchange_end(j->x);
}

static const qh_exchange_ops OPS = {on_close, write_big};

/* What came, as text: method, the fields that matter, and the body. */
static void reply_mirror(void *user)
{
    job *j = user;
    static const char *const SHOWN[] = {"authorization", "cookie", "content-type", "content-length", "x-own", "expect"};
    qh_str s = {0};
    size_t n;
    const char *body = qh_exchange_body(j->x, &n);
    qh_str_appendf(&s, "%s", qh_exchange_method(j->x));
    for (size_t i = 0; i < sizeof SHOWN / sizeof *SHOWN; i++) {
        const char *v = qh_exchange_header(j->x, SHOWN[i]);
        if (v) qh_str_appendf(&s, " %s=%s", SHOWN[i], v);
    }
    qh_str_appendf(&s, " [%s]", body);
    qh_http_field f[] = {{"X-Twice", "1"}, {"X-Twice", "2"}, {"X-Empty", ""}};
    qh_exchange_reply(j->x, 200, f, 3, s.data, s.len);
    qh_str_deinit(&s);
}

static void redirect(job *j)
{
    qh_str to = {0};
    const char *q = qh_exchange_query(j->x);            /* "302,/mirror", decoded once */
    CHECK_OK(qh_url_decode(&to, q + 4, strlen(q + 4), false));
    qh_http_field f[] = {{"Location", qh_str_z(&to)}, {"X-Hop", "yes"}};
    qh_exchange_reply(j->x, atoi(q), f, 2, "elsewhere", 9);
    qh_str_deinit(&to);
}

static void on_request(void *arg, qh_exchange *x)
{
    (void)arg;
    job *j = qh_new0(job);
    j->x = x;
    qh_exchange_watch(x, &OPS, j);
    const char *path = qh_exchange_path(x);
    if (!strcmp(path, "/mirror")) {
        qh_exchange_read_body(x, 0, reply_mirror);
    } else if (!strcmp(path, "/redirect")) {
        redirect(j);
    } else if (!strcmp(path, "/big")) {
        j->n_left = 1000;
        if (!qh_exchange_begin(x, 200, NULL, 0)) write_big(j);
    } else if (!strcmp(path, "/cut")) {
        qh_exchange_begin(x, 200, NULL, 0);
        qh_exchange_write(x, "half", 4);
        qh_exchange_abort(x);
    } else if (!strcmp(path, "/drip")) {
        qh_exchange_begin(x, 200, NULL, 0);
        qh_exchange_write(x, "one", 3);                 /* and then nothing */
    } else if (strcmp(path, "/never")) {
        qh_exchange_reply_error(x, 404, "not_found", "no such path", NULL, 0);
    }
}

/* ---- the client's side ---- */

typedef struct {
    qh_fetch *x;
    qh_status st;
    bool is_done, frees_on_head, frees_on_body, frees_on_done;
    int n_heads, n_pieces, pause_every;
    qh_timer *resume;
    uint64_t n_bytes;
    qh_status refuse;                   /* what on_body says */
    char msg[QH_ERR_MSG_BYTES];
    int forbidden_port;
} result;

static void on_done(void *user, qh_status st, const qh_err *err)
{
    result *r = user;
    r->is_done = true;
    r->st = st;
    snprintf(r->msg, sizeof r->msg, "%s", err->msg);
    if (r->frees_on_done) qh_fetch_free(r->x), r->x = NULL;
}

static void on_head(void *user)
{
    result *r = user;
    r->n_heads++;
    if (r->frees_on_head) qh_fetch_free(r->x), r->x = NULL;
}

static void resume(void *user)
{
    result *r = user;
    qh_fetch_resume(r->x);
}

static qh_status on_body(void *user, const char *data, size_t len)
{
    result *r = user;
    (void)data;
    if (r->refuse) return r->refuse;
    if (r->pause_every && ++r->n_pieces % r->pause_every == 0) {
        qh_timer_set(r->resume, 1000);
        return QH_AGAIN;
    }
    r->n_bytes += len;
    if (r->frees_on_body) qh_fetch_free(r->x), r->x = NULL;
    return QH_OK;
}

static qh_status allow(void *user, const char *scheme, const char *host, int port, qh_err *err)
{
    result *r = user;
    CHECK_STR(scheme, "http");
    if (port != r->forbidden_port) return QH_OK;
    return qh_fail(err, QH_EACCES, "%s:%d is not allowed", host, port);
}

static qh_server *server_new(void)
{
    qh_server *s;
    qh_server_opts o = {.on_request = on_request, .no_access_log = true};
    CHECK_OK(qh_server_new(&s, loop, &o, NULL));
    CHECK_OK(qh_server_listen(s, "127.0.0.1", 0, NULL));
    return s;
}

static void setup(void)
{
    CHECK_OK(qh_loop_new(&loop, NULL));
    server = server_new();
    other = server_new();
    CHECK_OK(qh_fetcher_new(&fetcher, loop, NULL));
    n_closed_early = 0;
}

static void teardown(void)
{
    qh_fetcher_free(fetcher);
    qh_server_free(server);
    qh_server_free(other);
    qh_loop_free(loop);
}

static char *url_of(qh_server *s, const char *path)
{
    qh_str u = {0};
    qh_str_appendf(&u, "http://127.0.0.1:%d%s", qh_server_port(s), path);
    return qh_str_steal(&u);
}

static qh_status start(result *r, qh_fetch_opts o, const char *path)
{
    qh_err err = {0};
    char *url = strstr(path, "://") ? qh_strdup(path) : url_of(server, path);
    o.url = url;
    o.on_done = on_done;
    o.user = r;
    if (r->forbidden_port) o.allow = allow;
    qh_status st = qh_fetch_start(&r->x, fetcher, &o, &err);
    snprintf(r->msg, sizeof r->msg, "%s", err.msg);
    qh_free(url);
    return st;
}

static void run(result *r, qh_fetch_opts o, const char *path)
{
    CHECK_OK(start(r, o, path));
    while (!r->is_done) qh_loop_turn(loop, true);
}

static const char *body_of(const result *r)
{
    size_t n;
    const char *b = qh_fetch_body(r->x, &n);
    CHECK_INT(strlen(b), n);
    return b;
}

TEST(a_reply_comes_with_status_headers_and_body)
{
    setup();
    result r = {0};
    run(&r, (qh_fetch_opts){.on_head = on_head}, "/mirror");
    CHECK_OK(r.st);
    CHECK_INT(r.n_heads, 1);
    CHECK_INT(qh_fetch_status(r.x), 200);
    CHECK_STR(body_of(&r), "GET []");
    CHECK_STR(qh_fetch_header(r.x, "x-twice"), "1");
    CHECK_STR(qh_fetch_header(r.x, "X-Empty"), "");
    CHECK(qh_fetch_header(r.x, "absent") == NULL);
    int n_twice = 0;
    for (int i = 0; i < qh_fetch_n_headers(r.x); i++) n_twice += !strcmp(qh_fetch_header_at(r.x, i).name, "X-Twice");
    CHECK_INT(n_twice, 2);
    qh_fetch_free(r.x);
    teardown();
}

TEST(method_fields_and_body_are_sent_as_given)
{
    setup();
    qh_http_field f[] = {{"X-Own", ""}, {"Content-Type", "application/json"}};
    result r = {0};
    run(&r, (qh_fetch_opts){.fields = f, .n_fields = 2, .body = "{}", .body_len_bytes = 2}, "/mirror");
    CHECK_STR(body_of(&r), "POST content-type=application/json content-length=2 x-own= [{}]");
    qh_fetch_free(r.x);
    r = (result){0};
    run(&r, (qh_fetch_opts){.method = "PUT", .body = "", .body_len_bytes = 0}, "/mirror");
    CHECK_STR(body_of(&r), "PUT content-length=0 []");
    qh_fetch_free(r.x);
    r = (result){0};
    run(&r, (qh_fetch_opts){.method = "HEAD"}, "/mirror");
    CHECK_STR(body_of(&r), "");
    CHECK_INT(atoi(qh_fetch_header(r.x, "content-length")), 7);
    qh_fetch_free(r.x);
    r = (result){0};
    run(&r, (qh_fetch_opts){.method = "DELETE"}, "/mirror");
    CHECK_STR(body_of(&r), "DELETE []");
    qh_fetch_free(r.x);
    teardown();
}

TEST(an_error_status_is_a_reply)
{
    setup();
    result r = {0};
    run(&r, (qh_fetch_opts){0}, "/nowhere");
    CHECK_OK(r.st);
    CHECK_INT(qh_fetch_status(r.x), 404);
    CHECK(strstr(body_of(&r), "no such path") != NULL);
    qh_fetch_free(r.x);
    teardown();
}

TEST(bad_requests_are_refused_at_once)
{
    setup();
    result r = {0};
    static const char *const BAD_URLS[] = {"ftp://127.0.0.1/", "file:///etc/passwd", "http://", "http://a b/",
                                           "http://a\r\nX: y/", "://x"};
    for (size_t i = 0; i < sizeof BAD_URLS / sizeof *BAD_URLS; i++) {
        CHECK_STATUS(start(&r, (qh_fetch_opts){0}, BAD_URLS[i]), QH_EINVAL);
        CHECK(r.x == NULL && r.msg[0]);
    }
    CHECK_STATUS(start(&r, (qh_fetch_opts){.method = "GE T"}, "/mirror"), QH_EINVAL);
    static const qh_http_field BAD[] = {{"X\r\nY", "a"}, {"X", "a\r\nY: b"}, {"Content-Length", "3"},
                                        {"transfer-encoding", "chunked"}};
    for (size_t i = 0; i < sizeof BAD / sizeof *BAD; i++)
        CHECK_STATUS(start(&r, (qh_fetch_opts){.fields = &BAD[i], .n_fields = 1}, "/mirror"), QH_EINVAL);
    teardown();
}

TEST(a_streamed_body_loses_nothing_over_pauses)
{
    setup();
    result r = {.pause_every = 7};
    r.resume = qh_timer_new(loop, resume, &r);
    run(&r, (qh_fetch_opts){.on_head = on_head, .on_body = on_body}, "/big");
    CHECK_OK(r.st);
    CHECK_INT(r.n_bytes, 10000000);
    CHECK_INT(r.n_heads, 1);
    CHECK(r.n_pieces > 7);
    qh_fetch_free(r.x);
    qh_timer_free(r.resume);
    teardown();
}

TEST(limits_and_receivers_end_a_body)
{
    setup();
    result r = {0};
    run(&r, (qh_fetch_opts){.max_body_bytes = 50000}, "/big");
    CHECK_STATUS(r.st, QH_ELIMIT);
    CHECK(strstr(r.msg, "larger than the limit") != NULL);
    qh_fetch_free(r.x);
    r = (result){.refuse = QH_EFORMAT};
    run(&r, (qh_fetch_opts){.on_body = on_body}, "/big");
    CHECK_STATUS(r.st, QH_EFORMAT);
    qh_fetch_free(r.x);
    teardown();
}

TEST(a_reply_cut_short_is_an_error)
{
    setup();
    result r = {0};
    run(&r, (qh_fetch_opts){0}, "/cut");
    CHECK_STATUS(r.st, QH_EIO);
    CHECK(r.msg[0]);
    qh_fetch_free(r.x);
    teardown();
}

TEST(time_limits_end_a_fetch)
{
    setup();
    result r = {0};
    int64_t t0 = qh_now_us();
    run(&r, (qh_fetch_opts){.timeout_us = 100000}, "/never");
    CHECK_STATUS(r.st, QH_ETIMEDOUT);
    CHECK(qh_now_us() - t0 < 1000000);
    qh_fetch_free(r.x);
    r = (result){0};
    t0 = qh_now_us();
    run(&r, (qh_fetch_opts){.idle_us = 1000000}, "/drip");
    CHECK_STATUS(r.st, QH_ETIMEDOUT);
    CHECK(qh_now_us() - t0 < 5000000);
    qh_fetch_free(r.x);
    teardown();
}

TEST(nobody_listening_is_an_error_with_a_reason)
{
    setup();
    char url[64];
    snprintf(url, sizeof url, "http://127.0.0.1:%d/", qh_server_port(other));
    qh_server_stop(other);
    result r = {0};
    run(&r, (qh_fetch_opts){0}, url);
    CHECK_STATUS(r.st, QH_EIO);
    CHECK(strstr(r.msg, "onnect") != NULL);
    qh_fetch_free(r.x);
    teardown();
}

/* ---- redirects ---- */

static char *redirect_path(int code, const char *to)
{
    qh_str s = {0};
    qh_str_appendf(&s, "/redirect?%d,", code);
    qh_url_encode(&s, to, strlen(to));
    return qh_str_steal(&s);
}

static void run_redirect(result *r, qh_fetch_opts o, int code, const char *to)
{
    char *path = redirect_path(code, to);
    run(r, o, path);
    qh_free(path);
}

TEST(redirects_are_followed_as_often_as_allowed)
{
    setup();
    result r = {0};
    run_redirect(&r, (qh_fetch_opts){.on_head = on_head}, 302, "/mirror");
    CHECK_INT(qh_fetch_status(r.x), 302);
    CHECK_STR(body_of(&r), "elsewhere");
    qh_fetch_free(r.x);
    r = (result){0};
    run_redirect(&r, (qh_fetch_opts){.on_head = on_head, .max_redirects = 1}, 302, "/mirror");
    CHECK_STR(body_of(&r), "GET []");
    CHECK_INT(r.n_heads, 1);
    CHECK(strstr(qh_fetch_url(r.x), "/mirror") != NULL);
    CHECK_STR(qh_fetch_first_header(r.x, "X-Hop"), "yes");
    CHECK(qh_fetch_header(r.x, "X-Hop") == NULL);
    qh_fetch_free(r.x);
    r = (result){0};
    char *twice = redirect_path(302, "/mirror");
    run_redirect(&r, (qh_fetch_opts){.max_redirects = 1}, 302, twice);
    CHECK_INT(qh_fetch_status(r.x), 302);
    qh_fetch_free(r.x);
    qh_free(twice);
    teardown();
}

TEST(redirects_change_the_method_as_the_standard_says)
{
    static const struct {
        int code;
        const char *method, *want;
    } CASES[] = {
        {301, "POST", "GET []"},
        {302, "POST", "GET []"},
        {303, "PUT", "GET []"},
        {302, "PUT", "PUT content-type=t content-length=1 [b]"},
        {307, "POST", "POST content-type=t content-length=1 [b]"},
        {308, "POST", "POST content-type=t content-length=1 [b]"},
    };
    setup();
    qh_http_field f = {"Content-Type", "t"};
    for (size_t i = 0; i < sizeof CASES / sizeof *CASES; i++) {
        result r = {0};
        run_redirect(&r, (qh_fetch_opts){.method = CASES[i].method, .fields = &f, .n_fields = 1, .body = "b",
                                         .body_len_bytes = 1, .max_redirects = 3}, CASES[i].code, "/mirror");
        CHECK_STR(body_of(&r), CASES[i].want);
        qh_fetch_free(r.x);
    }
    teardown();
}

TEST(credentials_stay_with_their_origin)
{
    setup();
    qh_http_field f[] = {{"Authorization", "secret"}, {"X-Own", "kept"}, {"cookie", "c"}};
    result r = {0};
    run_redirect(&r, (qh_fetch_opts){.fields = f, .n_fields = 3, .max_redirects = 3}, 302, "/mirror");
    CHECK_STR(body_of(&r), "GET authorization=secret cookie=c x-own=kept []");
    qh_fetch_free(r.x);
    r = (result){0};
    char *away = url_of(other, "/mirror");
    run_redirect(&r, (qh_fetch_opts){.fields = f, .n_fields = 3, .max_redirects = 3}, 302, away);
    CHECK_STR(body_of(&r), "GET x-own=kept []");
    qh_fetch_free(r.x);
    qh_free(away);
    teardown();
}

TEST(every_hop_is_put_to_allow)
{
    setup();
    result r = {.forbidden_port = qh_server_port(server)};
    CHECK_STATUS(start(&r, (qh_fetch_opts){0}, "/mirror"), QH_EACCES);
    CHECK(strstr(r.msg, "not allowed") != NULL);
    r = (result){.forbidden_port = qh_server_port(other)};
    char *away = url_of(other, "/mirror");
    run_redirect(&r, (qh_fetch_opts){.max_redirects = 3}, 302, away);
    CHECK_STATUS(r.st, QH_EACCES);
    CHECK_INT(qh_server_count(other).n_accepted, 0);
    qh_fetch_free(r.x);
    r = (result){.forbidden_port = 1};
    run_redirect(&r, (qh_fetch_opts){.max_redirects = 3}, 302, "file:///etc/passwd");
    CHECK_STATUS(r.st, QH_EINVAL);
    qh_fetch_free(r.x);
    qh_free(away);
    teardown();
}

/* ---- cancelling ---- */

static void stop_loop(void *arg) { qh_loop_stop(arg); }

static void turn_for(int64_t us)
{
    qh_timer *t = qh_timer_new(loop, stop_loop, loop);
    qh_timer_set(t, us);
    qh_loop_run(loop);
    qh_timer_free(t);
}

TEST(freeing_cancels_in_every_place)
{
    setup();
    result r = {0};
    CHECK_OK(start(&r, (qh_fetch_opts){0}, "/never"));
    qh_fetch_free(r.x);                                 /* before anything was sent */
    CHECK_OK(start(&r, (qh_fetch_opts){0}, "/never"));
    turn_for(30000);
    CHECK_INT(qh_server_count(server).n_exchanges, 1);
    qh_fetch_free(r.x);                                 /* while waiting */
    turn_for(30000);
    CHECK_INT(n_closed_early, 1);
    CHECK(!r.is_done);

    r = (result){.frees_on_head = true};
    CHECK_OK(start(&r, (qh_fetch_opts){.on_head = on_head, .on_body = on_body}, "/big"));
    turn_for(50000);
    CHECK(r.x == NULL && !r.is_done && r.n_bytes == 0);
    r = (result){.frees_on_body = true};
    CHECK_OK(start(&r, (qh_fetch_opts){.on_body = on_body}, "/big"));
    turn_for(50000);
    CHECK(r.x == NULL && !r.is_done && r.n_bytes > 0);
    r = (result){.frees_on_done = true};
    run(&r, (qh_fetch_opts){0}, "/mirror");
    CHECK(r.x == NULL);
    r = (result){.frees_on_head = true};                /* a reply without a body tells the head at its end */
    CHECK_OK(start(&r, (qh_fetch_opts){.method = "HEAD", .on_head = on_head}, "/mirror"));
    turn_for(50000);
    CHECK(r.x == NULL && !r.is_done);
    turn_for(30000);
    CHECK_INT(qh_server_count(server).n_exchanges, 0);
    teardown();
}

TEST(many_fetches_run_at_once_and_share_connections)
{
    setup();
    enum { N = 50 };
    result r[N] = {0};
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < N; i++) r[i] = (result){0}, CHECK_OK(start(&r[i], (qh_fetch_opts){0}, "/mirror"));
        for (int i = 0; i < N; i++) {
            while (!r[i].is_done) qh_loop_turn(loop, true);
            CHECK_STR(body_of(&r[i]), "GET []");
            qh_fetch_free(r[i].x);
        }
    }
    CHECK_INT(qh_server_count(server).n_requests, 4 * N);
    CHECK(qh_server_count(server).n_accepted <= 2 * N);
    teardown();
}

TEST_MAIN()
