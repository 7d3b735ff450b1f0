#!/bin/sh
# Creates what the Prefect server does not have yet: a work pool, and in it the deployments of `saemill serve`
# (flows/deployments.py). What is there stays as its users left it. To put one back, its schedule too: sh infra/deploy.sh nightly
#
#     prefect worker start --pool saemill --limit 1
#
# The worker has to run where saemill is installed and, for a Ray cluster, on one of its nodes (ray.address: auto).
set -eu
prefect work-pool inspect saemill > /dev/null 2>&1 || prefect work-pool create saemill --type process
exec python -m flows.deploy --pool saemill --storage s3://saemill/runs --set ray.address=auto "$@"
