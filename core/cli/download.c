/* download.c - see download.h */
#include "cli/download.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/str.h"
#include "net/fetch.h"
#include "net/loop.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

enum { COPY_BYTES = 1 << 20, MAX_RETRIES = 5, FIRST_PAUSE_MS = 1000, MAX_PAUSE_MS = 30000, MAX_TAG_BYTES = 512 };
#define PROGRESS_US ((int64_t)100000)

typedef struct {
    const qh_download_opts *opts;
    qh_err *err;
    /* the part */
    char *part_path, *tag_path;
    int fd;
    qh_sha256 *hash;                    /* of the part's bytes so far */
    int64_t n_bytes, total_bytes;       /* there; in all or -1 */
    char wanted[QH_SHA256_HEX_BYTES];   /* "" while not known */
    bool is_wanted_by_caller;           /* else it is what the server said */
    char tag[MAX_TAG_BYTES];            /* what the part belongs to; "": it cannot be resumed */
    int64_t shown_us;
    /* the transfer */
    qh_loop *loop;
    qh_fetcher *fetcher;
    qh_fetch *fetch;
    qh_timer *retry;
    bool is_canceled, is_over;
    bool is_retryable;                  /* the last failure may pass */
    int n_retries;                      /* since an attempt last got further than all before it */
    int64_t furthest_bytes;             /* n_bytes of the one that got furthest in this run */
    int wait_ms;                        /* the server asked for */
    bool restarts;                      /* the range cannot be had: begin again at 0 */
    qh_status st;
} download;

/* ---- hashing ---- */

/* Hash what fd holds from its beginning; *n_bytes: how much that was. */
static qh_status hash_fd(qh_sha256 *h, int fd, const char *path, int64_t *n_bytes, qh_err *err)
{
    char *buf = qh_alloc0(COPY_BYTES);
    ssize_t n;
    *n_bytes = 0;
    while ((n = pread(fd, buf, COPY_BYTES, *n_bytes)) > 0) {
        qh_sha256_add(h, buf, (size_t)n);
        *n_bytes += n;
    }
    int saved = errno;
    qh_free(buf);
    return n < 0 ? qh_fail(err, QH_EIO, "%s: %s", path, strerror(saved)) : QH_OK;
}

static qh_status hash_file(const char *path, char hex[QH_SHA256_HEX_BYTES], qh_err *err)
{
    int64_t n;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);     /* a FIFO's writer is not waited for */
    if (fd < 0) return qh_fail(err, QH_EIO, "%s: %s", path, strerror(errno));
    qh_sha256 *h = qh_sha256_new();
    qh_status st = hash_fd(h, fd, path, &n, err);
    qh_sha256_hex(h, hex);
    qh_sha256_free(h);
    close(fd);
    return st;
}

/* ---- the part ---- */

static qh_status io_fail(download *d, const char *path)
{
    return qh_fail(d->err, QH_EIO, "%s: %s", path, strerror(errno));
}

static qh_status part_truncate(download *d)
{
    if (ftruncate(d->fd, 0)) return io_fail(d, d->part_path);
    d->n_bytes = 0;
    qh_sha256_restart(d->hash);
    return QH_OK;
}

static void read_tag(const char *path, char out[MAX_TAG_BYTES])
{
    out[0] = 0;
    FILE *f = fopen(path, "re");
    if (!f) return;
    if (!fgets(out, MAX_TAG_BYTES, f)) out[0] = 0;
    fclose(f);
    out[strcspn(out, "\n")] = 0;
}

/* Say what the part, now empty, will hold. Without a tag a later call starts anew. */
static qh_status write_tag(download *d, const char *kind, const char *value)
{
    snprintf(d->tag, sizeof d->tag, "%s %s", kind, value);
    FILE *f = fopen(d->tag_path, "we");
    if (!f) return io_fail(d, d->tag_path);
    bool is_ok = fprintf(f, "%s\n", d->tag) > 0;
    is_ok = fclose(f) == 0 && is_ok;
    return is_ok ? QH_OK : io_fail(d, d->tag_path);
}

/* Open the part and keep of it what belongs to the file that is wanted now. */
static qh_status part_open(download *d)
{
    struct stat sb;
    d->fd = open(d->part_path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (d->fd < 0) return io_fail(d, d->part_path);
    if (flock(d->fd, LOCK_EX | LOCK_NB))
        return qh_fail(d->err, QH_AGAIN, "%s: another process is fetching this file", d->part_path);
    if (fstat(d->fd, &sb)) return io_fail(d, d->part_path);
    read_tag(d->tag_path, d->tag);
    if (!d->wanted[0] && !strncmp(d->tag, "sha256 ", 7) && qh_sha256_is_hex(d->tag + 7))
        snprintf(d->wanted, sizeof d->wanted, "%.64s", d->tag + 7);     /* what the server said last time */
    bool is_same = d->wanted[0] ? !strncmp(d->tag, "sha256 ", 7) && !strcasecmp(d->tag + 7, d->wanted)
                                : !strncmp(d->tag, "etag ", 5);
    if (!is_same || (d->total_bytes >= 0 && sb.st_size > d->total_bytes)) {
        d->tag[0] = 0;
        return part_truncate(d);
    }
    qh_sha256_restart(d->hash);
    return hash_fd(d->hash, d->fd, d->part_path, &d->n_bytes, d->err);
}

static void show(download *d, bool is_last)
{
    int64_t now_us = qh_now_us();
    if (!d->opts->progress || (!is_last && now_us - d->shown_us < PROGRESS_US)) return;
    d->shown_us = now_us;
    d->opts->progress(d->opts->arg, d->n_bytes, d->total_bytes);
}

static qh_status part_write(download *d, const char *data, size_t len)
{
    for (size_t done = 0; done < len;) {
        ssize_t n = pwrite(d->fd, data + done, len - done, d->n_bytes);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return io_fail(d, d->part_path);
        qh_sha256_add(d->hash, data + done, (size_t)n);
        done += (size_t)n;
        d->n_bytes += n;
    }
    show(d, false);
    return QH_OK;
}

static qh_status check_space(download *d)
{
    struct statvfs v;
    if (d->total_bytes < 0 || fstatvfs(d->fd, &v)) return QH_OK;
    int64_t free_bytes = (int64_t)v.f_bavail * (int64_t)v.f_frsize, need = d->total_bytes - d->n_bytes;
    if (need <= free_bytes) return QH_OK;
    return qh_fail(d->err, QH_ELIMIT, "%s: needs %.1f MB more, the disk has %.1f MB left", d->opts->path,
                   (double)need / 1e6, (double)free_bytes / 1e6);
}

static qh_status sync_folder(download *d)
{
    char *folder = qh_strdup(d->opts->path);
    char *slash = strrchr(folder, '/');
    if (slash) *slash = 0;
    int fd = open(slash ? folder : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    qh_free(folder);
    if (fd < 0) return io_fail(d, d->opts->path);
    fsync(fd);              /* not every file system can; the rename itself is done */
    close(fd);
    return QH_OK;
}

/* The part is whole: check it and put it in its place. */
static qh_status part_finish(download *d, qh_download_result *out)
{
    qh_sha256_hex(d->hash, out->sha256);
    out->len_bytes = d->n_bytes;
    out->is_checked = d->wanted[0] != 0;
    if (out->is_checked && strcasecmp(out->sha256, d->wanted)) {
        unlink(d->part_path);
        unlink(d->tag_path);
        return qh_fail(d->err, QH_ECHECKSUM, "%s: SHA-256 is %s, wanted %s; the part was removed", d->opts->path,
                       out->sha256, d->wanted);
    }
    if (fsync(d->fd)) return io_fail(d, d->part_path);
    if (rename(d->part_path, d->opts->path)) return io_fail(d, d->opts->path);
    unlink(d->tag_path);
    show(d, true);
    return sync_folder(d);
}

/* ---- the transfer ---- */

static void begin_attempt(void *arg);

static void end_transfer(download *d, qh_status st)
{
    d->st = st;
    d->is_over = true;
    qh_loop_stop(d->loop);
}

/* An attempt failed with d->err set: once more, or give up. Bytes that had come before count for
 * nothing: a server that sends all again and never its end must not be asked for ever. */
static void retry_or_end(download *d, qh_status st)
{
    if (d->n_bytes > d->furthest_bytes) {
        d->furthest_bytes = d->n_bytes;
        d->n_retries = 0;
    }
    if (!d->is_retryable || d->n_retries >= MAX_RETRIES) {
        end_transfer(d, st);
        return;
    }
    int pause_ms = FIRST_PAUSE_MS << d->n_retries++;
    if (pause_ms < d->wait_ms) pause_ms = d->wait_ms;
    if (pause_ms > MAX_PAUSE_MS) pause_ms = MAX_PAUSE_MS;
    if (d->opts->on_retry) d->opts->on_retry(d->opts->arg, d->err->msg, pause_ms);
    qh_err_clear(d->err);
    qh_timer_set(d->retry, (int64_t)pause_ms * 1000);
}

static qh_status status_fail(download *d, int status)
{
    const char *url = d->opts->url;
    if (status == 401 || status == 403)
        return qh_fail(d->err, QH_EACCES, "%s: %d, %s", url, status,
                       d->opts->token ? "the token was refused, or the licence of this repository is not accepted yet"
                                      : "not public: set HF_TOKEN to a token that may read it");
    if (status == 404) return qh_fail(d->err, QH_ENOTFOUND, "%s: 404, not found", url);
    d->is_retryable = status == 408 || status == 429 || status >= 500;
    return qh_fail(d->err, QH_EIO, "%s: the server answers %d", url, status);
}

/* "bytes 100-199/200": does it go on at n, and how long is the whole? */
static bool parse_range(const char *text, int64_t n, int64_t *total)
{
    long long first, last, all;
    if (!text || sscanf(text, "bytes %lld-%lld/%lld", &first, &last, &all) != 3) return false;
    *total = all;
    return first == n && last >= first && all > last;
}

static qh_status take_total(download *d, int64_t total)
{
    if (d->total_bytes >= 0 && total != d->total_bytes)
        return qh_fail(d->err, QH_EFORMAT, "%s: %lld bytes announced, the server sends %lld", d->opts->url,
                       (long long)d->total_bytes, (long long)total);
    d->total_bytes = total;
    return check_space(d);
}

/* The hub names a file's SHA-256 in the reply that redirects to where the bytes are. */
static qh_status learn_hash(download *d)
{
    const char *etag = qh_fetch_first_header(d->fetch, "x-linked-etag");
    char hex[QH_SHA256_HEX_BYTES];
    if (!etag) return QH_OK;
    snprintf(hex, sizeof hex, "%s", etag + (*etag == '"'));
    if (!qh_sha256_is_hex(hex) || !strcasecmp(hex, d->wanted)) return QH_OK;
    if (!d->wanted[0]) {
        memcpy(d->wanted, hex, sizeof hex);
        return QH_OK;
    }
    if (d->is_wanted_by_caller)
        return qh_fail(d->err, QH_ECHECKSUM, "%s: its SHA-256 is %s, wanted %s", d->opts->url, hex, d->wanted);
    memcpy(d->wanted, hex, sizeof hex);         /* another file since the part was begun */
    d->restarts = d->is_retryable = d->n_bytes > 0;
    return d->restarts ? qh_fail(d->err, QH_EIO, "%s: the file has changed", d->opts->url) : QH_OK;
}

static qh_status start_over(download *d)
{
    const char *etag = qh_fetch_header(d->fetch, "etag");
    qh_status st = part_truncate(d);
    if (st) return st;
    if (d->wanted[0]) return write_tag(d, "sha256", d->wanted);
    if (etag && *etag == '"' && strlen(etag) < MAX_TAG_BYTES - 8) return write_tag(d, "etag", etag);
    d->tag[0] = 0;              /* a weak tag or none: the same bytes cannot be promised */
    unlink(d->tag_path);
    return QH_OK;
}

static qh_status take_head(download *d)
{
    int status = qh_fetch_status(d->fetch);
    const char *length = qh_fetch_header(d->fetch, "content-length"), *wait = qh_fetch_header(d->fetch, "retry-after");
    int64_t total;
    qh_status st = status == 200 || status == 206 ? learn_hash(d) : QH_OK;
    if (st) return st;
    int wait_s = wait ? atoi(wait) : 0;         /* a date reads as 0 */
    d->wait_ms = wait_s > 0 && wait_s < MAX_PAUSE_MS / 1000 ? wait_s * 1000 : wait_s > 0 ? MAX_PAUSE_MS : 0;
    if (status == 206 && d->n_bytes) {
        if (!parse_range(qh_fetch_header(d->fetch, "content-range"), d->n_bytes, &total))
            return qh_fail(d->err, QH_EFORMAT, "%s: the server sends another range than asked for", d->opts->url);
        return take_total(d, total);
    }
    if (status == 416 && d->n_bytes) {
        d->restarts = d->is_retryable = true;
        return qh_fail(d->err, QH_EIO, "%s: the server has no bytes behind the %lld that are here", d->opts->url,
                       (long long)d->n_bytes);
    }
    if (status != 200) return status_fail(d, status);
    st = start_over(d);
    return !st && length ? take_total(d, strtoll(length, NULL, 10)) : st;
}

static void on_head(void *user)
{
    download *d = user;
    d->st = take_head(d);
}

static qh_status on_body(void *user, const char *data, size_t len)
{
    download *d = user;
    if (!d->st) d->st = part_write(d, data, len);
    return d->st;
}

static void on_done(void *user, qh_status st, const qh_err *err)
{
    download *d = user;
    if (!st) st = d->st;                        /* a bad head whose body was empty */
    else if (!d->st) {                          /* the transfer failed, not one of our callbacks */
        d->is_retryable = st == QH_EIO || st == QH_ETIMEDOUT;
        qh_fail(d->err, st, "%s", err->msg);
    }
    if (!st && d->total_bytes >= 0 && d->n_bytes != d->total_bytes) {
        d->is_retryable = true;
        st = qh_fail(d->err, QH_EIO, "%s: the reply ended early", d->opts->url);
    }
    qh_fetch_free(d->fetch);
    d->fetch = NULL;
    if (st) retry_or_end(d, st);
    else end_transfer(d, QH_OK);
}

static void begin_attempt(void *arg)
{
    download *d = arg;
    char auth[1024], range[64];
    qh_http_field fields[4];
    int n = 0;
    d->is_retryable = false;
    d->st = QH_OK;
    if (d->n_bytes && (d->restarts || !d->tag[0])) d->st = part_truncate(d);
    d->restarts = false;
    fields[n++] = (qh_http_field){"Accept", "*/*"};
    if (d->opts->token) {
        snprintf(auth, sizeof auth, "Bearer %s", d->opts->token);
        fields[n++] = (qh_http_field){"Authorization", auth};
    }
    if (d->n_bytes) {
        snprintf(range, sizeof range, "bytes=%lld-", (long long)d->n_bytes);
        fields[n++] = (qh_http_field){"Range", range};
        if (!strncmp(d->tag, "etag ", 5)) fields[n++] = (qh_http_field){"If-Range", d->tag + 5};
    }
    qh_fetch_opts o = {.url = d->opts->url, .fields = fields, .n_fields = n, .max_body_bytes = INT64_MAX / 2,
                       .max_redirects = 10, .on_head = on_head, .on_body = on_body, .on_done = on_done, .user = d};
    qh_status st = d->st ? d->st : qh_fetch_start(&d->fetch, d->fetcher, &o, d->err);
    if (st) end_transfer(d, st);
}

static void on_interrupt(void *arg, int signo)
{
    (void)signo;
    download *d = arg;
    d->is_canceled = true;
    qh_loop_stop(d->loop);
}

static qh_status transfer(download *d)
{
    qh_signal *interrupt = NULL, *terminate = NULL;
    qh_status st = qh_loop_new(&d->loop, d->err);
    if (!st) st = qh_fetcher_new(&d->fetcher, d->loop, d->err);
    if (!st) st = qh_signal_new(&interrupt, d->loop, SIGINT, on_interrupt, d, d->err);
    if (!st) st = qh_signal_new(&terminate, d->loop, SIGTERM, on_interrupt, d, d->err);
    if (!st) {
        d->retry = qh_timer_new(d->loop, begin_attempt, d);
        begin_attempt(d);
        qh_loop_run(d->loop);
        st = d->st;
        if (d->is_canceled && !d->is_over) {
            qh_err_clear(d->err);
            st = qh_fail(d->err, QH_ECANCELED, "%s: interrupted", d->opts->url);
        }
    }
    qh_fetch_free(d->fetch);
    qh_timer_free(d->retry);
    qh_signal_free(interrupt);
    qh_signal_free(terminate);
    qh_fetcher_free(d->fetcher);
    qh_loop_free(d->loop);
    return st;
}

static qh_status copy(download *d)
{
    struct stat sb;
    const char *from = d->opts->source_path;
    int fd = open(from, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return qh_fail(d->err, errno == ENOENT ? QH_ENOTFOUND : QH_EIO, "%s: %s", from, strerror(errno));
    qh_status st = part_truncate(d);
    if (!st && (fstat(fd, &sb) || !S_ISREG(sb.st_mode)))
        st = qh_fail(d->err, QH_EINVAL, "%s: not a regular file", from);
    if (!st) d->total_bytes = sb.st_size, st = check_space(d);
    char *buf = qh_alloc0(COPY_BYTES);
    while (!st) {
        ssize_t n = read(fd, buf, COPY_BYTES);
        if (n < 0) st = io_fail(d, from);
        if (n <= 0) break;
        st = part_write(d, buf, (size_t)n);
    }
    qh_free(buf);
    close(fd);
    return st;
}

/* ---- the whole ---- */

/* Is a file there, and is it the wanted one? *is_there only for a file to keep. */
static qh_status check_place(download *d, qh_download_result *out)
{
    struct stat sb;
    const char *path = d->opts->path;
    if (stat(path, &sb)) return QH_OK;
    out->len_bytes = sb.st_size;
    bool is_same = d->total_bytes < 0 || sb.st_size == d->total_bytes;
    if (is_same && d->wanted[0]) {
        qh_status st = hash_file(path, out->sha256, d->err);
        if (st) return st;
        is_same = !strcasecmp(out->sha256, d->wanted);
        out->is_checked = is_same;
    }
    out->was_there = is_same && !(d->opts->is_forced && !d->wanted[0]);
    if (is_same || d->opts->is_forced) return QH_OK;
    return qh_fail(d->err, QH_EEXIST, "%s: there is another file of that name; --force replaces it", path);
}

static void say_what_is_kept(download *d, qh_status st)
{
    if (d->opts->source_path) {
        unlink(d->part_path);
    } else if (!d->n_bytes || !d->tag[0]) {
        unlink(d->part_path);
        unlink(d->tag_path);
    } else {
        qh_err kept = *d->err;
        qh_err_clear(d->err);
        qh_fail(d->err, st, "%s; %.1f MB are kept in %s, the same command goes on from there", kept.msg,
                (double)d->n_bytes / 1e6, d->part_path);
    }
}

static char *with_suffix(const char *path, const char *suffix)
{
    qh_str s = {0};
    qh_str_appendf(&s, "%s%s", path, suffix);
    return qh_str_steal(&s);
}

static qh_status fill_part(download *d)
{
    if (d->opts->source_path) return copy(d);
    if (d->total_bytes >= 0 && d->n_bytes == d->total_bytes) return QH_OK;     /* only the end was missing */
    return transfer(d);
}

qh_status qh_download(const qh_download_opts *opts, qh_download_result *out, qh_err *err)
{
    qh_err own = {0};
    download d = {.opts = opts, .err = err ? err : &own, .fd = -1, .total_bytes = opts->len_bytes};
    *out = (qh_download_result){0};
    if (opts->sha256 && !qh_sha256_is_hex(opts->sha256))
        return qh_fail(d.err, QH_EINVAL, "'%s' is no SHA-256: 64 hex digits are wanted", opts->sha256);
    if (opts->sha256) snprintf(d.wanted, sizeof d.wanted, "%s", opts->sha256);
    d.is_wanted_by_caller = opts->sha256 != NULL;
    struct stat source;
    if (opts->source_path && !stat(opts->source_path, &source)) d.total_bytes = source.st_size;
    qh_status st = check_place(&d, out);
    if (st || out->was_there) return st;

    d.part_path = with_suffix(opts->path, ".part");
    d.tag_path = with_suffix(opts->path, ".part.tag");
    d.hash = qh_sha256_new();
    st = part_open(&d);
    bool is_ours = !st;                     /* else the part belongs to another process, or is unreadable */
    if (!st) st = fill_part(&d);
    if (!st) st = part_finish(&d, out);
    else if (is_ours) say_what_is_kept(&d, st);
    qh_sha256_free(d.hash);
    if (d.fd >= 0) close(d.fd);
    qh_free(d.part_path);
    qh_free(d.tag_path);
    return st;
}
