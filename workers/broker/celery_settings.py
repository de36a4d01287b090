"""Celery's configuration: a message only wakes a worker up, so it may be lost or delivered twice.

Tasks are acknowledged when they are received. Late acknowledgement would run a job again while it still runs,
once the broker's visibility timeout is over (celery#5935), and redeliver poisonous messages.
"""

from typing import Any

from kombu import Exchange, Queue

from workers.requests.placement import QUEUES

#: The longest that a hanging broker may delay a call.
SOCKET_TIMEOUT_S = 5

_REDIS_TRANSPORT = {
    "visibility_timeout": 3600,
    "socket_timeout": SOCKET_TIMEOUT_S,
    "socket_connect_timeout": SOCKET_TIMEOUT_S,
    "socket_keepalive": True,
    "health_check_interval": 10,
    "global_keyprefix": "zoo:",
}
#: RabbitMQ's transport accepts none of Redis's options.
_AMQP_TRANSPORT = {"connect_timeout": SOCKET_TIMEOUT_S}


def celery_settings(broker_url: str) -> dict[str, Any]:
    """Settings for a broker; no prefetching, because a message must not wait behind a job that takes days."""
    is_redis = broker_url.startswith(("redis", "valkey"))
    return {
        "broker_url": broker_url,
        # JSON only, in every direction: a pickle is refused without being read.
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        # The database records how jobs ended, so Celery stores no results.
        "task_ignore_result": True,
        "task_acks_late": False,
        "task_reject_on_worker_lost": False,
        "task_publish_retry": False,
        # A queue name in a message must not create that queue.
        "task_create_missing_queues": False,
        "task_queues": [Queue(name, Exchange(name, type="direct"), routing_key=name) for name in QUEUES],
        "task_default_queue": QUEUES[-1],
        "task_remote_tracebacks": False,
        "task_send_sent_event": False,
        # Not configurable: the pools `threads` and `solo` can neither cancel nor drain (celery#10490).
        "worker_pool": "prefork",
        "worker_concurrency": 1,
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": is_redis,
        "worker_send_task_events": False,
        # A running job does not need the broker; the default becomes True in Celery 6.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_hijack_root_logger": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": _REDIS_TRANSPORT if is_redis else _AMQP_TRANSPORT,
    }
