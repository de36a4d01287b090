"""How Celery is set up where a message is only a hint that there is work: it may be lost or come twice.

Tasks are acknowledged when they are received. Late acknowledgement would run a job again while it still runs,
once the broker's visibility timeout is over (celery#5935), and bring poisonous messages back.
"""

from typing import Any

from kombu import Exchange, Queue

from workers.requests.placement import QUEUES

#: What a broker that hangs may cost each call.
SOCKET_TIMEOUT_S = 5

_REDIS_TRANSPORT = {
    "visibility_timeout": 3600,
    "socket_timeout": SOCKET_TIMEOUT_S,
    "socket_connect_timeout": SOCKET_TIMEOUT_S,
    "socket_keepalive": True,
    "health_check_interval": 10,
    "global_keyprefix": "zoo:",
}
#: RabbitMQ's transport takes none of Redis's options.
_AMQP_TRANSPORT = {"connect_timeout": SOCKET_TIMEOUT_S}


def celery_settings(broker_url: str) -> dict[str, Any]:
    """Settings for a broker; without a prefetch, for a hint must not wait behind a job that takes days."""
    is_redis = broker_url.startswith(("redis", "valkey"))
    return {
        "broker_url": broker_url,
        # Only JSON, in every direction: a pickle is refused unread.
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        # The database knows how jobs went; Celery keeps nothing.
        "task_ignore_result": True,
        "task_acks_late": False,
        "task_reject_on_worker_lost": False,
        "task_publish_retry": False,
        # A name in a message must not make a queue.
        "task_create_missing_queues": False,
        "task_queues": [Queue(name, Exchange(name, type="direct"), routing_key=name) for name in QUEUES],
        "task_default_queue": QUEUES[-1],
        "task_remote_tracebacks": False,
        "task_send_sent_event": False,
        # Without an option: threads and solo can neither cancel nor drain (celery#10490).
        "worker_pool": "prefork",
        "worker_concurrency": 1,
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": is_redis,
        "worker_send_task_events": False,
        # A job knows nothing of the broker; the default turns to True in Celery 6.
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_hijack_root_logger": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": _REDIS_TRANSPORT if is_redis else _AMQP_TRANSPORT,
    }
