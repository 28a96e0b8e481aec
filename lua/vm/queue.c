/* queue.c - whose turn it is: a request's own line in each queue, and the requests in turn */
#include "lua/vm/task_private.h"

void qh_queue_leave(qh_task *t)
{
    if (!t->is_queued) return;
    qh_task_queue *q = &t->vm->queues[t->queue];
    qh_task *root = t->root, *before = NULL;
    line *l = &root->ready[t->queue].tasks;
    t->is_queued = false;
    q->n_tasks--;
    qh_task **at = &l->first;
    for (; *at != t; at = &(*at)->next_ready) before = *at;
    *at = t->next_ready;
    if (l->last == t) l->last = before;
    if (l->first) return;
    before = NULL;                              /* its request has none left: out of the round */
    for (at = &q->first; *at != root; at = &(*at)->ready[t->queue].next_root) before = *at;
    *at = root->ready[t->queue].next_root;
    if (q->last == root) q->last = before;
}

static void join_round(qh_task *root, qh_queue_kind kind)
{
    qh_task_queue *q = &root->vm->queues[kind];
    root->ready[kind].next_root = NULL;
    if (q->last) q->last->ready[kind].next_root = root;
    else q->first = root;
    q->last = root;
}

void qh_queue_join(qh_task *t, qh_queue_kind kind)
{
    line *l = &t->root->ready[kind].tasks;
    t->is_queued = true;
    t->queue = kind;
    t->next_ready = NULL;
    t->vm->queues[kind].n_tasks++;
    if (l->last) {
        l->last->next_ready = t;
    } else {
        l->first = t;
        join_round(t->root, kind);
    }
    l->last = t;
}

qh_task *qh_queue_take(qh_vm *vm, qh_queue_kind kind)
{
    qh_task_queue *q = &vm->queues[kind];
    qh_task *root = q->first;
    if (!root) return NULL;
    line *l = &root->ready[kind].tasks;
    qh_task *t = l->first;
    t->is_queued = false;
    q->n_tasks--;
    l->first = t->next_ready;
    if (!l->first) l->last = NULL;
    q->first = root->ready[kind].next_root;
    if (!q->first) q->last = NULL;
    if (l->first) join_round(root, kind);
    return t;
}
